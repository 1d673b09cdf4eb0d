import pytest
import torch
from synthetic import tiny_model, tiny_params

from randomz.checkpoint import load_tensors, save_tensors
from randomz.finite import NonFiniteLossError
from randomz.priors import build_priors, fit_priors, load_priors, priors_state
from randomz.priors.likelihood import maximise_likelihood
from randomz.resume import Checkpoints
from randomz.seeding import generator

NAMES = {
    "ae": ["standard_normal", "gaussian", "gmm", "flow"],
    "vae": ["standard_normal", "gaussian", "gmm", "flow"],
    "vqvae": ["uniform", "position", "autoregressive"],
}
KINDS = tuple(NAMES)


def draw(kind, count=100, key=0):
    """Codes of the shape that a tiny model of this kind has."""
    stream = generator("test_priors", key)
    if kind == "vqvae":
        return torch.randint(6, (count, 2, 2), generator=stream)
    return torch.randn(count, 3, generator=stream)


def build(kind, seed, **changes):
    return build_priors(tiny_params(models={kind: changes}), kind, tiny_model(kind, **changes)[0], seed)


def fit(kind, seed=0):
    """Priors and what was said while they were fitted."""
    priors, rows = build(kind, seed), []
    fit_priors(priors, draw(kind), draw(kind, 40, key=1), seed, rows.append)
    return priors, rows


def noise():
    return generator("test_priors sample")


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_its_samplers(kind):
    priors = build(kind, 0)
    assert list(priors) == NAMES[kind]
    for prior in priors.values():
        codes = prior.sample(7, noise())
        assert codes.shape == draw(kind, 7).shape
        assert codes.dtype == draw(kind).dtype
        assert prior.log_prob(codes).shape == (7,)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_a_closed_form_and_a_row_an_epoch(kind):
    priors, rows = fit(kind, seed=4)
    expected = {
        "vqvae": [("uniform", 0), ("position", 0), ("autoregressive", 1), ("autoregressive", 2)],
    }.get(kind, [("standard_normal", 0), ("gaussian", 0), ("gmm", 1), ("gmm", 2), ("flow", 1), ("flow", 2)])
    assert [(row["prior"], row["epoch"]) for row in rows] == expected
    for row in rows:
        assert list(row) == ["seed", "prior", "components", "epoch", "validation_nats"]
        assert row["seed"] == 4
        if row["epoch"] == 0:
            nats = -float(priors[row["prior"]].log_prob(draw(kind, 40, key=1)).double().mean())
            assert row["validation_nats"] == pytest.approx(nats)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_with_the_same_seed_gives_the_same_bytes(kind, tmp_path):
    for name, global_seed in (("first", 1), ("second", 2)):
        torch.manual_seed(global_seed)
        save_tensors(tmp_path / name, priors_state(fit(kind)[0]))
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_saved_priors_come_back(kind, tmp_path):
    priors, _ = fit(kind)
    save_tensors(tmp_path / "priors", priors_state(priors))
    loaded = build(kind, 1)
    load_priors(loaded, load_tensors(tmp_path / "priors"), torch.device("cpu"))
    codes = draw(kind, 20, key=2)
    for name, prior in priors.items():
        assert torch.equal(loaded[name].log_prob(codes), prior.log_prob(codes))
        assert torch.equal(loaded[name].sample(20, noise()), prior.sample(20, noise()))


@pytest.mark.parametrize("kind", KINDS)
def test_priors_of_another_shape_are_refused(kind):
    state = priors_state(fit(kind)[0])
    others = build(kind, 0, dimensions=5, **({"grid": 3} if kind == "vqvae" else {}))
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_priors(others, state, torch.device("cpu"))
    with pytest.raises(RuntimeError, match="Missing key"):
        load_priors(others, {}, torch.device("cpu"))


@pytest.mark.parametrize("kind", KINDS)
def test_initial_weights_are_a_function_of_the_seed_alone(kind):
    torch.manual_seed(1)
    first = priors_state(build(kind, 0))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = priors_state(build(kind, 0))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_the_initial_weights_of_another_seed_differ():
    first, second = (priors_state(build("vqvae", seed)) for seed in (0, 1))
    assert any(not torch.equal(tensor, second[name]) for name, tensor in first.items())


class Stopped(Exception):  # noqa: N818
    """As good as a kill."""


class StoppingCheckpoints(Checkpoints):
    """Checkpoints of a fit that is stopped once it has saved this epoch."""

    def within(self, part):
        return StoppingCheckpoints(self.folder / part)

    def save(self, tensors, rows):
        super().save(tensors, rows)
        if len(rows) == 1:
            raise Stopped


@pytest.mark.parametrize(("kind", "learned"), [("vae", "flow"), ("vqvae", "autoregressive")])
def test_a_fit_that_is_stopped_and_goes_on_gives_the_same_bits(kind, learned, tmp_path):
    priors, expected = fit(kind)
    with pytest.raises(Stopped):
        fit_priors(build(kind, 0), draw(kind), draw(kind, 40, key=1), 0, lambda _: None, StoppingCheckpoints(tmp_path))
    assert [row["epoch"] for row in Checkpoints(tmp_path / learned).load().rows] == [1]
    resumed, rows = build(kind, 0), []
    fit_priors(resumed, draw(kind), draw(kind, 40, key=1), 0, rows.append, Checkpoints(tmp_path))
    assert rows == expected
    state = priors_state(resumed)
    for name, tensor in priors_state(priors).items():
        assert torch.equal(state[name], tensor), name


@pytest.mark.parametrize("best", [1, 2])
def test_a_fit_that_goes_on_knows_its_best_epoch(best, tmp_path):
    """Epochs of validation nats 5 and 5 -/+ 1; the fit is stopped between them."""
    weights = {}
    nats = iter([5.0, 4.0 if best == 2 else 6.0])

    def fit_network(checkpoints):
        network = torch.nn.Linear(2, 1, bias=False)
        torch.nn.init.ones_(network.weight)
        z = draw("vae")[:, :2]

        def validate():
            weights[len(weights) + 1] = network.weight.detach().clone()
            return next(nats)

        config = tiny_params().prior.vae.flow
        maximise_likelihood(
            network, lambda batch, _: network(z[batch]).square().mean(), validate, z, config, 0.0, 0, print, checkpoints
        )
        return network

    with pytest.raises(Stopped):
        fit_network(StoppingCheckpoints(tmp_path))
    assert torch.equal(fit_network(Checkpoints(tmp_path)).weight, weights[best])
    assert not torch.equal(weights[1], weights[2])


def test_a_loss_that_is_not_finite_names_prior_epoch_and_step(tmp_path):
    priors = build("vae", 0)
    codes = draw("vae")
    codes[7] = float("nan")
    del priors["gaussian"], priors["gmm"]
    with pytest.raises(NonFiniteLossError, match=r"^flow, epoch 1, step [12]: loss = nan; a finite loss is accepted$"):
        fit_priors(priors, codes, draw("vae", 40, key=1), 0, lambda _: None, Checkpoints(tmp_path))
    assert Checkpoints(tmp_path / "flow").load() is None
