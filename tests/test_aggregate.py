import math

import pytest
import torch

from randomz.aggregate import aggregate_kl, posterior_deviation
from randomz.gaussian import DiagonalGaussian
from randomz.priors.gaussian import FittedGaussian, StandardNormal
from randomz.seeding import generator

MEAN, SIGMA = torch.tensor([1.0, -0.5]), torch.tensor([0.5, 2.0])
# KL(N(mean, sigma^2) || N(0, 1)) of each dimension
EXACT = float((0.5 * (MEAN.square() + SIGMA.square() - 1) - SIGMA.log()).sum())


def draw(count=20000, key=0):
    """Draws from N(MEAN, SIGMA^2)."""
    return MEAN + SIGMA * torch.randn(count, 2, generator=generator("test_aggregate", key))


def gaussian(mean=MEAN, sigma=SIGMA):
    prior = FittedGaussian(2)
    prior.mean.copy_(mean)
    prior.scale.copy_(torch.diag(sigma))
    return prior


def priors(**fitted):
    return {"standard_normal": StandardNormal(2), **fitted}


def test_the_true_density_gives_the_exact_divergence():
    assert aggregate_kl(draw(200000), priors(gaussian=gaussian())) == pytest.approx(EXACT, rel=0.01)


def test_a_density_fitted_to_other_draws_comes_close_from_below():
    fitted = FittedGaussian(2).fit(draw(500, key=1), draw(10), 0, lambda _: None)
    found = aggregate_kl(draw(200000), priors(gaussian=fitted))
    assert 0.97 * EXACT < found < EXACT


def test_a_wrong_density_bounds_less_by_its_own_divergence_and_the_best_counts():
    z = draw(200000)
    wrong = gaussian(mean=MEAN + torch.tensor([0.3, 0.0]))
    found = aggregate_kl(z, priors(wrong=wrong))
    assert found == pytest.approx(EXACT - 0.5 * (0.3 / 0.5) ** 2, rel=0.01)
    both = aggregate_kl(z, priors(wrong=wrong, right=gaussian()))
    assert both == aggregate_kl(z, priors(right=gaussian())) > found


def test_codes_of_the_prior_itself_are_at_no_distance():
    z = torch.randn(5000, 2, generator=generator("test_aggregate"))
    assert aggregate_kl(z, priors(far=gaussian())) == 0
    assert aggregate_kl(z, priors(same=gaussian(torch.zeros(2), torch.ones(2)))) == pytest.approx(0, abs=1e-6)


def test_what_is_left_of_the_kl_is_the_information_of_a_code_on_its_image():
    # mu ~ N(0, 0.8^2), sigma 0.6: q(z) is the prior, and I(x; z) = -log 0.6 a dimension.
    mu = 0.8 * torch.randn(100000, 2, generator=generator("test_aggregate"))
    posterior = DiagonalGaussian(mu, torch.full_like(mu, 2 * math.log(0.6)))
    z = posterior.sample(torch.randn(mu.shape, generator=generator("test_aggregate", 1)))
    fitted = FittedGaussian(2).fit(z[:50000], z, 0, lambda _: None)
    kl = float(posterior.kl().sum(1).mean())
    information = kl - aggregate_kl(z[50000:], priors(gaussian=fitted))
    assert information == pytest.approx(-2 * math.log(0.6), abs=0.01)


@pytest.mark.parametrize("given", [{}, {"standard_normal": StandardNormal(2)}, {"gmm": StandardNormal(2)}])
def test_priors_that_bound_nothing_are_refused(given):
    with pytest.raises(ValueError, match="standard_normal and a fitted density are needed"):
        aggregate_kl(draw(10), given)


def test_a_density_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="density of prior gmm is NaN at some of 10 codes"):
        aggregate_kl(draw(10), priors(gaussian=gaussian(), gmm=gaussian(sigma=torch.tensor([torch.nan, 1.0]))))


def test_the_deviation_of_a_posterior_is_relative_to_the_spread_of_its_means():
    mu = torch.tensor([[-1.0, 10.0], [1.0, -10.0]]).repeat(500, 1)
    sigma = torch.tensor([[0.1, 2.0], [0.3, 4.0]]).repeat(500, 1)
    found = posterior_deviation(DiagonalGaussian(mu, 2 * sigma.log()))
    assert found == pytest.approx((0.2 / 1 + 3 / 10) / 2, rel=1e-3)


def test_the_deviation_of_a_posterior_is_that_of_the_dimensions_in_use():
    mu = torch.tensor([[-1.0, 1.0, 0.0], [1.0, -1.0, 0.0]]).repeat(500, 1)
    sigma = torch.tensor([0.1, 0.2, 1.0]).expand_as(mu)
    assert posterior_deviation(DiagonalGaussian(mu, 2 * sigma.log())) == pytest.approx(0.2, rel=1e-3)


def test_a_point_has_no_deviation_and_an_unused_dimension_a_finite_one():
    mu = torch.randn(50, 3, generator=generator("test_aggregate"))
    assert posterior_deviation(DiagonalGaussian(mu, torch.full_like(mu, -40.0))) < 1e-8
    assert posterior_deviation(DiagonalGaussian(torch.zeros(50, 3), torch.zeros(50, 3))) == pytest.approx(1e6)
