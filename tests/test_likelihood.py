import math

import pytest
import torch

from randomz.likelihood import Likelihood, bernoulli_nll, gaussian_nll
from randomz.seeding import generator

SHAPE = (5, 1, 28, 28)


@pytest.fixture
def x():
    return torch.rand(SHAPE, generator=generator("test_likelihood x"))


@pytest.fixture
def logits():
    return 3 * torch.randn(SHAPE, generator=generator("test_likelihood logits"))


def test_zero_logits_cost_784_ln_2_nats_whatever_the_image(x):
    torch.testing.assert_close(bernoulli_nll(torch.zeros(SHAPE), x), torch.full((5,), 784 * math.log(2)))


def test_bernoulli_is_the_sum_of_torchs_log_probabilities(x, logits):
    binary = (x > 0.5).float()
    reference = -torch.distributions.Bernoulli(logits=logits).log_prob(binary).sum((1, 2, 3))
    torch.testing.assert_close(bernoulli_nll(logits, binary), reference)


def test_grey_pixels_cost_what_binarised_ones_cost_on_average(x, logits):
    zero, one = (bernoulli_nll(logits, torch.full(SHAPE, value)) for value in (0.0, 1.0))
    grey = bernoulli_nll(logits, torch.full(SHAPE, 0.3))
    torch.testing.assert_close(grey, 0.7 * zero + 0.3 * one)
    draws = (torch.rand(400, *SHAPE, generator=generator("test_likelihood binarise")) < x).float()
    each = bernoulli_nll(logits.expand_as(draws), draws)
    error = (each.mean(0) - bernoulli_nll(logits, x)).abs()
    assert bool((error < 5 * each.std(0) / math.sqrt(400)).all())


def test_gaussian_of_sigma_1_is_half_the_squared_error_and_392_ln_2_pi(x, logits):
    expected = 0.5 * (x - logits).square().sum((1, 2, 3)) + 392 * math.log(2 * math.pi)
    torch.testing.assert_close(gaussian_nll(logits, x, torch.tensor(0.0)), expected)


@pytest.mark.parametrize("sigma", [0.1, 1.0, 2.5])
def test_gaussian_is_the_sum_of_torchs_log_densities(x, logits, sigma):
    likelihood = Likelihood("gaussian", sigma)
    reference = -torch.distributions.Normal(likelihood.mean(logits), sigma).log_prob(x).sum((1, 2, 3))
    torch.testing.assert_close(likelihood.nll(logits, x), reference, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize(("kind", "sigma"), [("bernoulli", None), ("gaussian", 0.7), ("gaussian", "calibrated")])
def test_draws_before_the_batch_are_broadcast(x, logits, kind, sigma):
    likelihood = Likelihood(kind, sigma)
    draws = logits + torch.arange(3.0).view(3, 1, 1, 1, 1)
    together = likelihood.nll(draws, x)
    assert together.shape == (3, 5)
    torch.testing.assert_close(together, torch.stack([likelihood.nll(draw, x) for draw in draws]))
    torch.testing.assert_close(together, likelihood.nll(draws, x.expand_as(draws)))


@pytest.mark.parametrize(("kind", "sigma"), [("bernoulli", None), ("gaussian", 0.7)])
def test_an_image_costs_the_same_in_any_batch(x, logits, kind, sigma):
    likelihood = Likelihood(kind, sigma)
    torch.testing.assert_close(likelihood.nll(logits, x)[3:4], likelihood.nll(logits[3:4], x[3:4]))


def test_the_mean_image_is_the_sigmoid_of_the_logits(logits):
    for likelihood in (Likelihood("bernoulli", None), Likelihood("gaussian", 1.0)):
        torch.testing.assert_close(likelihood.mean(logits), 1 / (1 + torch.exp(-logits)))


def test_the_gradient_of_a_calibrated_sigma_is_zero_where_its_square_is_the_mse(x, logits):
    likelihood = Likelihood("gaussian", "calibrated")
    assert [name for name, _ in likelihood.named_parameters()] == ["log_sigma"]
    mse = (x - likelihood.mean(logits)).square().mean()
    gradients = []
    for factor in (0.5, 1.0, 2.0):
        likelihood.log_sigma.data.copy_(0.5 * (factor * mse).log())
        (gradient,) = torch.autograd.grad(likelihood.nll(logits, x).mean(), likelihood.log_sigma)
        gradients.append(float(gradient))
    # 784 (1 - mse / sigma^2) by hand
    assert gradients == pytest.approx([-784, 0, 392], abs=1e-2)


def test_a_fixed_sigma_is_neither_learned_nor_saved():
    likelihood = Likelihood("gaussian", 0.5)
    assert list(likelihood.parameters()) == []
    assert likelihood.state_dict() == {}
    assert float(likelihood.log_sigma) == pytest.approx(math.log(0.5))
