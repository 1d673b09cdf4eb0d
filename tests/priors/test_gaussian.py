import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from randomz.priors.gaussian import FittedGaussian, StandardNormal, gaussian_log_density
from randomz.seeding import generator

B, D, DRAWS = 400, 3, 20000


def draw(count, dimensions, key=0):
    """Correlated codes of different spreads, away from the origin."""
    stream = generator("test_prior_gaussian", key)
    mix = torch.randn(dimensions, dimensions, generator=generator("test_prior_gaussian mix"))
    return torch.randn(count, dimensions, generator=stream) @ mix + torch.arange(1.0, dimensions + 1)


def fitted(codes):
    return FittedGaussian(codes.shape[1]).fit(codes, codes[:10], 0, lambda _: None)


def noise():
    return generator("test_prior_gaussian sample")


def test_standard_normal_is_torchs():
    z = draw(B, D)
    reference = MultivariateNormal(torch.zeros(D), torch.eye(D)).log_prob(z)
    torch.testing.assert_close(StandardNormal(D).log_prob(z), reference, rtol=1e-5, atol=1e-4)


def test_fitted_gaussian_is_torchs_with_the_mean_and_covariance_of_the_codes():
    codes, z = draw(B, D), draw(50, D, key=1)
    reference = MultivariateNormal(codes.mean(0), torch.cov(codes.T)).log_prob(z)
    torch.testing.assert_close(fitted(codes).log_prob(z), reference, rtol=1e-4, atol=1e-3)


def test_no_other_gaussian_makes_the_codes_likelier():
    codes = draw(B, D)
    prior = fitted(codes)
    best = float(prior.log_prob(codes).mean())
    for mean, scale in (
        (prior.mean + 0.1, prior.scale),
        (prior.mean, 1.1 * prior.scale),
        (prior.mean, 0.9 * prior.scale),
    ):
        assert float(gaussian_log_density(codes, mean, scale).mean()) < best


@pytest.mark.parametrize("prior", [StandardNormal(1), fitted(draw(B, 1))], ids=["standard_normal", "gaussian"])
def test_the_density_of_one_dimension_integrates_to_1(prior):
    z = torch.linspace(-40, 40, 20001)[:, None]
    assert float(torch.trapezoid(prior.log_prob(z).exp(), z[:, 0])) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", ["standard_normal", "gaussian"])
def test_draws_have_the_mean_and_the_covariance(name):
    codes = draw(B, D)
    prior, mean, covariance = {
        "standard_normal": (StandardNormal(D), torch.zeros(D), torch.eye(D)),
        "gaussian": (fitted(codes), codes.mean(0), torch.cov(codes.T)),
    }[name]
    z = prior.sample(DRAWS, noise())
    assert z.shape == (DRAWS, D)
    variances = covariance.diagonal()
    assert bool(((z.mean(0) - mean).abs() < 5 * (variances / DRAWS).sqrt()).all())
    spread = (variances[:, None] * variances + covariance.square()).sqrt() / math.sqrt(DRAWS)
    assert bool(((torch.cov(z.T) - covariance).abs() < 5 * spread).all())


@pytest.mark.parametrize("prior", [StandardNormal(D), fitted(draw(B, D))], ids=["standard_normal", "gaussian"])
def test_draws_come_from_the_noise_alone(prior):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert torch.equal(prior.sample(5, noise()), prior.sample(5, noise()))
    assert not torch.equal(prior.sample(5, noise()), prior.sample(5, generator("test_prior_gaussian other")))
    assert torch.equal(torch.get_rng_state(), state)


def test_codes_that_do_not_vary_in_a_dimension_can_be_fitted():
    codes = draw(B, D)
    codes[:, 1] = 2.0
    z = fitted(codes).sample(1000, noise())
    assert bool(((z[:, 1] - 2).abs() < 0.1).all())
    assert bool(fitted(codes).log_prob(codes).isfinite().all())


def test_a_fit_is_the_same_each_time():
    first, second = fitted(draw(B, D)), fitted(draw(B, D))
    assert torch.equal(first.mean, second.mean)
    assert torch.equal(first.scale, second.scale)
