import math

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from randomz.gaussian import DiagonalGaussian, standard_normal_log_density
from randomz.seeding import generator

B, D, DRAWS = 4, 3, 20000


@pytest.fixture
def posterior():
    stream = generator("test_gaussian")
    return DiagonalGaussian(torch.randn(B, D, generator=stream), torch.randn(B, D, generator=stream))


@pytest.fixture
def draws(posterior):
    return posterior.sample(torch.randn(DRAWS, B, D, generator=generator("test_gaussian eps")))


def test_kl_is_torchs(posterior):
    reference = kl_divergence(Normal(posterior.mu, posterior.sigma), Normal(0.0, 1.0))
    torch.testing.assert_close(posterior.kl(), reference)


def test_kl_is_zero_for_the_standard_normal_and_positive_beside_it():
    zeros = torch.zeros(2, 5)
    torch.testing.assert_close(DiagonalGaussian(zeros, zeros).kl(), zeros, rtol=0, atol=0)
    for mu, logvar in ((0.1, 0.0), (0.0, 0.1), (0.0, -0.1)):
        assert bool((DiagonalGaussian(zeros + mu, zeros + logvar).kl() > 0).all())


def test_kl_of_a_shift_is_half_its_square():
    assert float(DiagonalGaussian(torch.tensor([[3.0]]), torch.zeros(1, 1)).kl()) == pytest.approx(4.5)


def test_kl_is_the_mean_log_ratio_of_draws(posterior, draws):
    ratios = posterior.log_density(draws) - standard_normal_log_density(draws)
    error = (ratios.mean(0) - posterior.kl().sum(-1)).abs()
    assert bool((error < 5 * ratios.std(0) / math.sqrt(DRAWS)).all())


def test_log_density_is_torchs(posterior, draws):
    reference = Independent(Normal(posterior.mu, posterior.sigma), 1).log_prob(draws)
    assert reference.shape == (DRAWS, B)
    torch.testing.assert_close(posterior.log_density(draws), reference, rtol=1e-5, atol=1e-5)


def test_standard_normal_log_density_is_torchs(draws):
    reference = Independent(Normal(torch.zeros(D), torch.ones(D)), 1).log_prob(draws)
    torch.testing.assert_close(standard_normal_log_density(draws), reference, rtol=1e-5, atol=1e-5)
    assert float(standard_normal_log_density(torch.zeros(784))) == pytest.approx(-392 * math.log(2 * math.pi))


def test_draws_have_the_mean_and_the_deviation(posterior, draws):
    standard_error = posterior.sigma / math.sqrt(DRAWS)
    assert bool(((draws.mean(0) - posterior.mu).abs() < 5 * standard_error).all())
    assert bool(((draws.std(0) - posterior.sigma).abs() < 5 * standard_error / math.sqrt(2)).all())


def test_draws_of_different_dimensions_are_independent(draws):
    correlations = torch.corrcoef(draws[:, 0].T) - torch.eye(D)
    assert float(correlations.abs().max()) < 5 / math.sqrt(DRAWS)


def test_gradients_go_through_a_draw():
    mu, logvar = torch.tensor([[0.3, -1.0]], requires_grad=True), torch.tensor([[0.2, -0.7]], requires_grad=True)
    eps = torch.tensor([[1.5, -0.4]])
    DiagonalGaussian(mu, logvar).sample(eps).sum().backward()
    torch.testing.assert_close(mu.grad, torch.ones(1, 2))
    torch.testing.assert_close(logvar.grad, 0.5 * torch.exp(0.5 * logvar.detach()) * eps)
