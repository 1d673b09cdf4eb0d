import math

import pytest
import torch
from synthetic import tiny_params

from randomz.priors.flow import Flow
from randomz.priors.gaussian import FittedGaussian
from randomz.seeding import generator


def unfitted(dimensions=2, **changes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Flow(dimensions, tiny_params(prior={"ae": {"flow": {"width": 16, **changes}}}).prior.ae.flow)


def draw(count, key=0):
    """A bent band: the second dimension follows the square of the first, on very different scales."""
    eps = torch.randn(count, 2, generator=generator("test_flow", key))
    return torch.stack([100 * eps[:, 0] + 7, eps[:, 0] ** 2 + 0.2 * eps[:, 1]], 1)


ENTROPY = math.log(2 * math.pi * math.e) + math.log(100) + math.log(0.2)  # of the band, nats


def fit(prior, seed=0):
    rows = []
    return prior.fit(draw(2000), draw(500, key=1), seed, rows.append), rows


def noise():
    return generator("test_flow sample")


@pytest.fixture(scope="module")
def fitted():
    return fit(unfitted(epochs=12))


def test_a_bent_band_is_fitted_better_than_by_one_gaussian(fitted):
    held_out = draw(4000, key=2)
    gaussian = FittedGaussian(2).fit(draw(2000), held_out, 0, lambda _: None)
    nats = -float(fitted[0].log_prob(held_out).mean())
    assert ENTROPY - 0.05 < nats < ENTROPY + 0.3
    assert -float(gaussian.log_prob(held_out).mean()) > nats + 0.7


def test_the_density_integrates_to_1(fitted):
    x, y = torch.linspace(-700, 700, 701), torch.linspace(-12, 40, 1301)
    grid = torch.cartesian_prod(x, y)
    mass = fitted[0].log_prob(grid).double().exp().sum() * float(x[1] - x[0]) * float(y[1] - y[0])
    assert float(mass) == pytest.approx(1, abs=0.03)


def test_draws_are_of_the_density(fitted):
    z = fitted[0].sample(20000, noise())
    nats = -float(fitted[0].log_prob(z).mean())
    assert nats == pytest.approx(-float(fitted[0].log_prob(draw(20000, key=3)).mean()), abs=0.3)
    assert float(z[:, 0].mean()) == pytest.approx(7, abs=10)
    assert float(z[:, 0].std()) == pytest.approx(100, rel=0.15)
    bent = torch.corrcoef(torch.stack([(z[:, 0] - 7) ** 2, z[:, 1]]))[0, 1]
    assert float(bent) > 0.8


def test_an_unfitted_flow_is_near_the_standard_normal_and_inverts():
    prior = unfitted(3)
    z = prior.sample(50, noise())
    eps = prior.flow().transform((z - prior.mean) / prior.scale)
    torch.testing.assert_close(eps, torch.randn(50, 3, generator=noise()), rtol=1e-4, atol=1e-4)


def test_a_row_an_epoch_and_the_best_epoch_is_kept(fitted):
    prior, rows = fitted
    assert [row["epoch"] for row in rows] == list(range(1, 13))
    best = -float(prior.log_prob(draw(500, key=1)).double().mean())
    assert min(row["validation_nats"] for row in rows) == pytest.approx(best, rel=1e-6)


def test_a_fit_is_a_function_of_its_seed_and_leaves_the_global_stream_alone():
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first, second, other = (fit(unfitted(), seed)[0] for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.sample(9, noise()), second.sample(9, noise()))
    assert not torch.equal(first.sample(9, noise()), other.sample(9, noise()))


def test_a_dimension_that_never_changes_is_no_trap():
    codes = draw(500)
    codes[:, 1] = 3.0
    prior = unfitted().fit(codes, codes[:50], 0, lambda _: None)
    z = prior.sample(100, noise())
    torch.testing.assert_close(z[:, 1], torch.full((100,), 3.0), rtol=0, atol=1e-3)
