import contextlib
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from multiprocessing import Pipe

import pytest
import torch

from randomz import devices
from randomz.devices import DeviceError, Done, Progress, choose_device, each_seed
from randomz.seeding import generator

CPU = torch.device("cpu")
GPU = torch.device("cuda")  # says how seeds are run; nothing in these tasks is put there
forks = pytest.mark.skipif(
    sys.platform != "linux", reason="tasks of a test are functions inside it, which only fork takes"
)


def work(seed, say):
    """A result that takes some floating-point work, and three rows on the way."""
    x = torch.randn(20, 20, generator=generator("test_devices", seed))
    for step in range(3):
        x = torch.tanh(x @ x.T / 10)
        say({"step": step, "mean": float(x.mean())})
    return {"x": x, "pid": os.getpid()}


def gather(events):
    """What each seed said, in order, and what it came to."""
    said, results = {}, {}
    for event in events:
        if isinstance(event, Progress):
            assert event.seed not in results
            said.setdefault(event.seed, []).append(event.row)
        else:
            assert isinstance(event, Done)
            results[event.seed] = event.result
    return said, results


@forks
def test_seeds_in_processes_give_what_each_gives_alone():
    said, results = gather(each_seed(work, (0, 1, 2), CPU))
    for seed in (0, 1, 2):
        alone_said, alone = gather(each_seed(work, (seed,), CPU))
        assert said[seed] == alone_said[seed]
        assert torch.equal(results[seed]["x"], alone[seed]["x"])
        assert alone[seed]["pid"] != os.getpid()
    assert len({result["pid"] for result in results.values()} | {os.getpid()}) == 4


@pytest.mark.parametrize("at_once", [False, True])
def test_seeds_on_a_gpu_are_threads_of_this_process_and_give_the_same(at_once):
    said, results = gather(each_seed(work, (0, 1), GPU, at_once=at_once))
    for seed in (0, 1):
        rows, reference = gather([*each_seed(work, (seed,), CPU)])
        assert said[seed] == rows[seed]
        assert torch.equal(results[seed]["x"], reference[seed]["x"])
        assert results[seed]["pid"] == os.getpid()


def test_progress_of_a_gpu_arrives_while_its_seed_runs():
    go = threading.Event()

    def task(seed, say):
        say({"step": 0})
        assert go.wait(10)
        return seed

    events = each_seed(task, (0,), GPU)
    assert isinstance(next(events), Progress)
    go.set()
    assert [event.result for event in events] == [0]


def test_seeds_of_a_gpu_follow_each_other_unless_they_are_to_run_at_once(monkeypatch):
    monkeypatch.setattr(devices, "THREADS", 2)
    running, most = [], []

    def task(seed, _):
        running.append(seed)
        with contextlib.suppress(threading.BrokenBarrierError):
            meeting.wait()
        most.append(len(running))
        running.remove(seed)

    meeting = threading.Barrier(2, timeout=10)
    list(each_seed(task, range(4), GPU, at_once=True))
    assert max(most) == 2
    assert not meeting.broken  # two met, twice
    most.clear()
    meeting = threading.Barrier(2, timeout=0.01)
    list(each_seed(task, range(4), GPU))
    assert most == [1, 1, 1, 1]


def test_a_failing_seed_of_a_gpu_is_named():
    def task(seed, _):
        raise ValueError(f"no {seed}")

    with pytest.raises(DeviceError, match="seed 1: no 1"):
        list(each_seed(task, (1, 2), GPU))


def test_a_failing_seed_of_a_gpu_ends_the_others_at_their_next_word():
    failed, ended = threading.Event(), threading.Event()

    def task(seed, say):
        if seed == 1:
            raise ValueError("no")
        try:
            assert failed.wait(10)
            say({"step": 0})
        finally:
            ended.set()
        raise AssertionError("goes on")

    with pytest.raises(DeviceError, match="seed 1: no"):
        list(each_seed(task, (0, 1), GPU, at_once=True))
    failed.set()
    assert ended.wait(10)


@forks
def test_progress_arrives_while_a_seed_runs(tmp_path):
    go = tmp_path / "go"

    def task(seed, say):
        say({"step": 0})
        while not go.exists():
            time.sleep(0.01)
        return seed

    events = each_seed(task, (0, 1), CPU)
    assert {next(events).seed, next(events).seed} == {0, 1}
    go.touch()
    assert sorted(event.result for event in events) == [0, 1]


@forks
def test_a_failing_seed_is_named_and_the_others_are_stopped(tmp_path):
    def task(seed, say):
        (tmp_path / f"{seed}.part").write_text(str(os.getpid()))
        (tmp_path / f"{seed}.part").rename(tmp_path / str(seed))  # seen by the others once it is whole
        if seed == 1:
            while not (tmp_path / "0").exists() or not (tmp_path / "2").exists():
                time.sleep(0.01)
            raise ValueError("the loss is nan")
        say({"step": 0})
        time.sleep(60)

    start = time.monotonic()
    with pytest.raises(DeviceError, match=r"^seed 1: the loss is nan$"):
        list(each_seed(task, (0, 1, 2), CPU))
    assert time.monotonic() - start < 45
    for seed in (0, 2):
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / str(seed)).read_text()), 0)


@forks
def test_an_unforeseen_error_comes_with_its_traceback():
    def task(seed, say):  # noqa: ARG001
        return {}[seed]

    with pytest.raises(DeviceError, match=r"(?s)^seed [01]: [01]\nTraceback .* in task\n.*KeyError: [01]"):
        list(each_seed(task, (0, 1), CPU))


@forks
def test_a_killed_seed_is_named():
    def task(seed, say):  # noqa: ARG001
        if seed == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)

    with pytest.raises(DeviceError, match=r"^seed 3: its process died without a word \(out of memory, or killed\)$"):
        list(each_seed(task, (2, 3), CPU))


def test_a_seed_that_dies_in_the_middle_of_a_message_is_named():
    receiver, sender = Pipe(duplex=False)
    os.write(sender.fileno(), struct.pack("!i", 100) + b"only a part")
    sender.close()
    with receiver, pytest.raises(DeviceError, match=r"^seed 3: its process died without a word"):
        list(devices._listen({receiver: 3}))  # noqa: SLF001


@forks
def test_a_result_larger_than_a_pipe_arrives():
    results = gather(each_seed(lambda seed, _: torch.full((500_000,), float(seed)), (0, 1), CPU))[1]
    assert all(torch.equal(result, torch.full((500_000,), float(seed))) for seed, result in results.items())


@forks
def test_stopping_to_listen_ends_the_seeds():
    def task(seed, say):  # noqa: ARG001
        say({"pid": os.getpid()})
        time.sleep(60)

    events = each_seed(task, (0, 1), CPU)
    pids = [int(next(events).row["pid"]), int(next(events).row["pid"])]
    with contextlib.closing(events):
        pass
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize("asked", ["auto", "cpu", None])
def test_a_machine_without_a_gpu_runs_on_its_cpu(monkeypatch, asked):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("RANDOMZ_DEVICE", raising=False)
    if asked:
        monkeypatch.setenv("RANDOMZ_DEVICE", asked)
    assert choose_device() == CPU


@pytest.mark.parametrize(("asked", "kind"), [("auto", "cuda"), ("cuda", "cuda"), ("cpu", "cpu")])
def test_a_machine_with_a_gpu_runs_on_what_is_asked(monkeypatch, asked, kind):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("RANDOMZ_DEVICE", asked)
    assert choose_device().type == kind


def test_an_unknown_device_is_refused(monkeypatch):
    monkeypatch.setenv("RANDOMZ_DEVICE", "tpu")
    with pytest.raises(DeviceError, match=r"^RANDOMZ_DEVICE: found 'tpu'; accepted: auto, cpu, cuda$"):
        choose_device()


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("RANDOMZ_DEVICE", "cuda")
    with pytest.raises(DeviceError, match=r"^RANDOMZ_DEVICE: found 'cuda', but torch .* sees no CUDA device"):
        choose_device()


SINGLE_SEED = """
import torch
from randomz.devices import Done, choose_device, each_seed
device = choose_device(forks=True)
many = torch.arange(2_000_000).float().sqrt().sum()  # several threads would share this
def task(seed, say):
    return float(torch.arange(2_000_000).float().sqrt().sum() - many), torch.get_num_threads()
for event in each_seed(task, [0], device):
    if isinstance(event, Done):
        print(*event.result)
"""


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core: nothing has several threads")
def test_a_single_seed_has_all_cores_and_does_not_hang():
    environment = {**os.environ, "RANDOMZ_DEVICE": "cpu"}
    for limit in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        environment.pop(limit, None)
    run = subprocess.run(
        [sys.executable, "-c", SINGLE_SEED], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    difference, threads = run.stdout.split()
    assert abs(float(difference)) < 1e-3 * 2e9
    assert int(threads) == os.cpu_count()
