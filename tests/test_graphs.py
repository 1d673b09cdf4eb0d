import warnings

import pytest
import torch
from synthetic import blobs, tiny_model, tiny_params
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from randomz.batches import Split
from randomz.devices import Done, each_seed
from randomz.graphs import Replayed, one_by_one, own_stream, runner
from randomz.noise import Tape, draw
from randomz.optimiser import AdamW
from randomz.priors import build_priors
from randomz.resume import Checkpoints
from randomz.seeding import generator
from randomz.trainer import Data, fit, train_step

CPU, GPU = torch.device("cpu"), torch.device("cuda")
KINDS = [
    ("ae", {}),
    ("vae", {}),
    ("vae", {"likelihood": "gaussian", "sigma": "calibrated"}),
    ("vqvae", {"codes": 64}),  # laid out in columns
    ("vqvae", {"codebook": "gradient"}),
]
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Operations(TorchDispatchMode):
    """What a CUDA graph would hold of what runs within: each operation, and the very memory that it works on."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        # A graph neither draws from a generator nor lets the CPU look at a value, as .item() and masks do.
        assert kwargs.get("generator") is None, operation
        assert operation.name() not in {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select"}
        result = operation(*args, **kwargs)
        self.calls.append((operation, args, kwargs, result))
        return result

    @torch.no_grad()
    def replay(self):
        for operation, args, kwargs, result in self.calls:
            again = operation(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def rehearsed(steps, captures=None):
    """A CUDA graph on a CPU: the steps' Python never runs again. The capture runs them, the first launch does not."""
    operations = Operations()
    with operations:
        result = steps()
    if captures is not None:
        captures.append(len(result))
    launches = []

    def launch():
        if launches:
            operations.replay()
        launches.append(True)
        return result

    return launch


@pytest.fixture(scope="module")
def data():
    return Data(train=blobs(100, 1), validation=blobs(30, 2))


@pytest.fixture
def chunks_of_four(monkeypatch):
    """Ten steps of an epoch as graphs of 4, 4 and 2."""
    monkeypatch.setattr("randomz.graphs.STEPS", 4)


@pytest.fixture
def replayed(monkeypatch, chunks_of_four):  # noqa: ARG001
    """Every fit is run as on a GPU; a list of the lengths of the graphs that were captured."""
    captures = []
    monkeypatch.setattr(
        "randomz.trainer.runner", lambda step, _: Replayed(step, lambda steps: rehearsed(steps, captures))
    )
    return captures


def train(name, data, changes, checkpoints=None, epochs=2, until=None, **config):
    """A model and its rows of history, where the fit ended or is left."""
    model, loss = tiny_model(name, 3, **changes)
    model = model.to(data.train.images.device)
    rows = []
    for row in fit(model, loss, data, tiny_params(train={"epochs": epochs, **config}).train, 3, checkpoints):
        rows.append(row)
        if len(rows) == until:
            break
    return {key: tensor.cpu() for key, tensor in model.state_dict().items()}, rows


def assert_same(a, b):
    assert a[1] == b[1]
    for name, tensor in a[0].items():
        assert torch.equal(tensor, b[0][name]), name


@pytest.mark.parametrize(
    ("name", "changes", "binarise"), [*((name, changes, False) for name, changes in KINDS), ("vae", {}, True)]
)
def test_replayed_training_gives_the_bits_of_the_plain_one(name, changes, binarise, data, request):
    plain = train(name, data, changes, binarise=binarise)
    captures = request.getfixturevalue("replayed")
    assert_same(train(name, data, changes, binarise=binarise), plain)
    assert captures == [4, 2]


def test_replayed_training_goes_on_from_a_checkpoint_to_the_same_bits(data, request, tmp_path):
    plain = train("vqvae", data, {})
    request.getfixturevalue("replayed")
    train("vqvae", data, {}, Checkpoints(tmp_path), until=1)
    assert_same(train("vqvae", data, {}, Checkpoints(tmp_path)), plain)


@pytest.mark.parametrize(("kind", "learned"), [("vae", "flow"), ("vqvae", "autoregressive")])
def test_a_prior_that_is_replayed_gets_the_bits_of_the_plain_fit(kind, learned, monkeypatch, chunks_of_four):  # noqa: ARG001
    def fitted():
        params = tiny_params(prior={kind: {learned: {"batch_size": 10}} if kind == "vae" else {"batch_size": 10}})
        prior = build_priors(params, kind, tiny_model(kind)[0], 0)[learned]
        stream, rows = generator("test_graphs codes"), []
        if kind == "vae":
            codes = torch.randn(100, 3, generator=stream)
        else:
            codes = torch.randint(6, (100, 2, 2), generator=stream)
        prior.fit(codes[:95], codes[95:], 0, rows.append)
        return prior.state_dict(), rows

    plain, captures = fitted(), []
    monkeypatch.setattr(
        "randomz.priors.likelihood.runner", lambda step, _: Replayed(step, lambda steps: rehearsed(steps, captures))
    )
    assert_same(fitted(), plain)
    assert captures == [4, 1]


def steps_given(count):
    """Inputs of a step, all different."""
    return [(torch.full((5,), step), step / 10, generator("test_graphs", step)) for step in range(count)]


def added(images, rate, noise):
    """A step that says what it was given."""
    means = {
        "images": images,
        "rate": torch.as_tensor(rate, dtype=torch.float64),
        "noise": draw(noise, CPU, torch.rand, 3),
    }
    return {name: values.double().mean() for name, values in means.items()}


@pytest.mark.usefixtures("chunks_of_four")
@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 23])
def test_every_step_gets_its_own_images_rate_and_noise(count):
    expected = one_by_one(added, iter(steps_given(count)))
    run = Replayed(added, rehearsed)
    for _ in range(2):
        terms = run(iter(steps_given(count)))
        assert list(terms) == ["images", "rate", "noise"]
        for name, values in terms.items():
            torch.testing.assert_close(values, expected[name], rtol=0, atol=0)


@pytest.mark.usefixtures("chunks_of_four")
def test_a_number_of_python_stays_what_it_was_at_the_capture():
    """So the stand-in tells a step that a graph can hold from one that it cannot."""
    count = iter(range(12))
    run = Replayed(lambda *_: {"count": torch.zeros(()) + next(count)}, rehearsed)
    assert run(iter(steps_given(12)))["count"].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7]
    run = Replayed(lambda _, rate, __: {"rate": torch.zeros(()) + rate.item()}, rehearsed)
    with pytest.raises(AssertionError, match="_local_scalar_dense"):
        run(iter(steps_given(8)))


def test_a_cpu_runs_its_steps_one_by_one():
    assert not isinstance(runner(added, CPU), Replayed)
    assert isinstance(runner(added, GPU), Replayed)
    with own_stream(CPU):
        pass


@pytest.mark.usefixtures("chunks_of_four")
def test_without_a_capture_steps_are_launched_one_by_one_with_a_single_warning(data, monkeypatch):
    def refuse():
        raise RuntimeError("operation not permitted\nSearch for it elsewhere")

    plain = train("vae", data, {})
    train("ae", data, {})  # the import of its code, checked for types, would make Python forget what it has warned of
    monkeypatch.setattr("randomz.trainer.runner", lambda step, _: Replayed(step))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", refuse)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        assert_same(train("vae", data, {}), plain)
        train("ae", data, {})
    assert [str(warning.message) for warning in seen] == [
        "training launches its steps one by one, for want of a CUDA graph: operation not permitted"
    ]


class Places(TorchDispatchMode):
    """On which devices the tensors of each operation lie."""

    def __init__(self):
        super().__init__()
        self.devices = {}

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = str(operation)
        # It has no form for tensors without values; whatever it gives, it gives in place.
        result = None if "fused_adamw" in name else operation(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        self.devices.setdefault(name, set()).update(tensor.device.type for tensor in tensors)
        return result


class DrawnOnGPU(Tape):
    def take(self, make, sizes):
        return make(*sizes, device=self.device)


@pytest.mark.parametrize(("name", "changes"), KINDS)
def test_a_step_on_a_gpu_has_nothing_on_the_cpu(name, changes, monkeypatch):
    """Seen without a GPU, on tensors that have a device and no values. These know no backward."""
    with FakeTensorMode(), Places() as places:
        with GPU:
            model, loss = tiny_model(name, **changes)
        monkeypatch.setattr(
            torch.Tensor, "backward", lambda _: [setattr(p, "grad", torch.zeros_like(p)) for p in model.parameters()]
        )
        optimiser = AdamW(model.parameters(), weight_decay=0.01, betas=(0.9, 0.99))
        images, rates = torch.zeros(10, 28, 28, dtype=torch.uint8, device=GPU), torch.zeros(4, device=GPU)
        places.devices.clear()
        train_step(model, loss, optimiser, images, rates[0], DrawnOnGPU(GPU, 4))
    operations = {operation: devices for operation, devices in places.devices.items() if "profiler" not in operation}
    assert "aten._fused_adamw_.tensor_lr" in operations
    assert {operation: devices for operation, devices in operations.items() if devices != {"cuda"}} == {}


def on_gpu(data):
    return Data(*(Split(split.images.to(GPU), split.labels.to(GPU)) for split in (data.train, data.validation)))


@gpu
@pytest.mark.gpu
@pytest.mark.parametrize(("name", "changes"), KINDS)
def test_a_gpu_replays_what_it_would_launch(name, changes, data, monkeypatch, chunks_of_four):  # noqa: ARG001
    graphed, rows = train(name, on_gpu(data), changes)  # a warning, of no graph, would be an error
    monkeypatch.setattr("randomz.trainer.runner", lambda step, _: lambda inputs: one_by_one(step, inputs))
    launched, expected = train(name, on_gpu(data), changes)
    for row, other in zip(rows, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-3)
    if name != "vqvae":  # where a tie may be broken the other way
        for key, tensor in graphed.items():
            torch.testing.assert_close(tensor, launched[key], rtol=1e-2, atol=1e-3)


@gpu
@pytest.mark.gpu
def test_seeds_at_once_on_a_gpu_give_what_each_gives_alone(data):
    def task(seed, say):
        with own_stream(GPU):
            model, loss = tiny_model("vae", seed)
            for row in fit(model.to(GPU), loss, on_gpu(data), tiny_params(train={"epochs": 10}).train, seed):
                say(row)
            return model.decoder.stack[0].weight.detach().cpu()

    def results(*, at_once):
        events = each_seed(task, range(6), GPU, at_once=at_once)
        return {event.seed: event.result for event in events if isinstance(event, Done)}

    together, apart = results(at_once=True), results(at_once=False)
    for seed, weight in apart.items():
        torch.testing.assert_close(together[seed], weight, rtol=0, atol=0)
