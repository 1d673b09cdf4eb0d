import json
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from benchmarks import train
from benchmarks.contestants import Epoch
from benchmarks.train import Entry, Run, main, rates, section, take_turns, throughput_entries


def made_run(started=100.0, finished=120.0, spans=((102.0, 104.0, 106.0, 110.0),), losses=(9.0, 7.0)):
    """Epochs of 1,000 images, one tuple a seed: when the first began, and the end of each."""
    epochs = [
        Epoch(seed, number, began, at, loss)
        for seed, times in enumerate(spans)
        for number, ((began, at), loss) in enumerate(zip(pairwise(times), [*losses, losses[-1]], strict=False), 1)
    ]
    return Run(started, finished, 30.0, 1000, tuple(epochs))


def test_warm_leaves_the_first_epoch_out_and_cold_nothing():
    run = made_run()
    assert run.warm == pytest.approx(2000 / 6)
    assert run.cold == pytest.approx(3000 / 20)


def test_seeds_side_by_side_share_their_time_and_one_after_the_other_do_not():
    together = made_run(spans=((100.0, 104.0, 108.0), (100.0, 104.0, 108.0)))
    in_turn = made_run(spans=((100.0, 104.0, 106.0), (107.0, 108.0, 110.0)))
    assert together.warm == pytest.approx(2000 / 4)
    assert in_turn.warm == pytest.approx(2000 / 4)
    assert together.validation() == [7.0, 7.0]


def test_time_beside_a_late_seeds_first_epoch_is_shared_with_it():
    late = made_run(spans=((100.0, 104.0, 107.0), (100.0, 106.0, 108.0)))
    # From 104 to 106 half of the time is a first epoch's, from then on none.
    assert late.warm == pytest.approx(2000 / (1 + 2))


def test_time_to_a_level_counts_from_the_start_of_the_process():
    run = made_run()
    assert run.seconds_to(9.5) == 4.0
    assert run.seconds_to(7.0) == 6.0
    assert run.seconds_to(6.9) is None


def test_ratios_are_taken_turn_by_turn_and_say_how_many_times_as_fast_ours_is():
    mine, theirs = [made_run(), made_run(finished=110.0)], [made_run(finished=140.0), made_run(finished=140.0)]
    found = rates(theirs, mine)
    assert found["ours_faster"]["cold"]["values"] == pytest.approx([2.0, 4.0])
    assert found["ours_faster"]["warm"]["values"] == pytest.approx([1.0, 1.0])
    assert "ours_faster" not in rates(mine, mine)


def test_every_other_turn_goes_backwards():
    order = []
    entries = [Entry("ours", "ae", (0,)), Entry("pythae", "ae", (0,))]
    runs = take_turns(entries, 3, lambda entry: order.append(entry.contestant[0]) or made_run())
    assert "".join(order) == "oppoop"
    assert [len(each) for each in runs.values()] == [3, 3]


def test_ours_and_pythae_meet_over_every_model_with_one_seed_and_with_three():
    entries = throughput_entries(("ae", "vae", "vqvae"))
    met = {(entry.contestant, entry.model, len(entry.seeds)) for entry in entries}
    assert met >= {(name, model, n) for name in ("ours", "pythae") for model in train.MODELS for n in (1, 3)}
    assert ("lucidrains", "vqvae", 1) in met


@pytest.fixture
def made(monkeypatch, tmp_path):
    """A run without any training: pythae takes twice the time of ours, and reaches less."""

    def played(entry, epochs, images):
        assert (epochs, images) == (2, 500)
        slow, loss = (2, 8.0) if entry.contestant == "pythae" else (1, 7.0)
        spans = tuple((100.0 + 2 * slow, 100.0 + 4 * slow, 100.0 + 6 * slow) for _ in entry.seeds)
        return made_run(finished=100.0 + 8 * slow, spans=spans, losses=(9.0, loss))

    split = SimpleNamespace(images=torch.zeros(20, 28, 28, dtype=torch.uint8))
    task = SimpleNamespace(
        data=SimpleNamespace(train=split),
        train=SimpleNamespace(batch_size=10),
        build=lambda _: None,
        kind=SimpleNamespace(loss=None),
    )
    monkeypatch.setattr(train, "train", played)
    monkeypatch.setattr(train, "make_task", lambda *_: task)
    monkeypatch.setattr(train, "multiply_rate", lambda *_: 1e9)
    monkeypatch.setattr(train, "step_operations", lambda *_: 1e6)
    monkeypatch.setattr(train, "VALIDATION", tmp_path)
    monkeypatch.setattr(train, "find_spec", lambda _: True)
    monkeypatch.setenv("RANDOMZ_DEVICE", "cpu")
    return ["--models", "vqvae", "--epochs", "2", "--images", "500", "--results", str(tmp_path)]


def test_modes_are_written_beside_each_other(made, tmp_path, capsys):
    for mode in train.MODES:
        assert main([*made, "--mode", mode]) == 0
    tree = json.loads((tmp_path / "cpu-train.json").read_text())
    assert list(tree) == list(train.MODES)
    found = tree["throughput"]["models"]["vqvae"]
    assert found["arithmetic_allows"] == pytest.approx(1e9 / (1e6 / 10))
    assert found["one"]["pythae"]["ours_faster"]["warm"]["median"] == pytest.approx(2)
    assert found["three"]["pythae"]["validation"] == [8.0, 8.0, 8.0]
    assert set(found["one"]) == {"ours", "pythae", "lucidrains"}
    (turn,) = tree["quality"]["models"]["vqvae"]["turns"]
    assert turn == {"level": 8.0, "ours": 6.0, "pythae": 12.0}
    assert set(tree["seeds"]["models"]["vqvae"]) == {"1", "3", "5", "8"}
    assert tree["throughput"]["conditions"]["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert "| vqvae | three | pythae |" in capsys.readouterr().out


def test_a_stated_level_is_taken_and_never_is_said(made, tmp_path):
    assert main([*made, "--mode", "quality", "--level", "7.5"]) == 0
    tree = json.loads((tmp_path / "cpu-train.json").read_text())
    assert tree["quality"]["models"]["vqvae"]["turns"] == [{"level": 7.5, "ours": 6.0, "pythae": None}]
    assert "| never |" in "\n".join(section(tree, "quality"))


def test_bad_arguments_and_missing_peers_are_refused_in_one_line(made, monkeypatch, capsys):
    monkeypatch.setattr(train, "find_spec", lambda _: None)
    with pytest.raises(SystemExit, match="2"):
        main(made)
    assert "not installed: pythae, vector-quantize-pytorch; `uv sync --group peers`" in capsys.readouterr().err
    assert main([*made, "--mode", "seeds"]) == 0
    for arguments, reason in ((["--epochs", "1"], "2 or more"), (["--models", "ae", "vae", "--level", "3"], "--level")):
        with pytest.raises(SystemExit, match="2"):
            main([*made, *arguments])
        assert reason in capsys.readouterr().err


def test_a_training_that_fails_is_named_with_what_it_said(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError, match=r"(?s)ours ae: ended with status 1.*No module named"):
        train.train(Entry("ours", "ae", (0,)), 2, 100)
