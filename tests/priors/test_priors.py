import pytest
import torch
from synthetic import tiny_model, tiny_params

from randomz.checkpoint import load_tensors, save_tensors
from randomz.priors import build_priors, fit_priors, load_priors, priors_state
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
