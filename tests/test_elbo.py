"""log p(x) = ELBO + KL(q(z | x) || p(z | x)), where all of it is known: a linear decoder with Gaussian noise.

Such a model is probabilistic PCA (Tipping & Bishop 1999), and scikit-learn's PCA scores its exact log-likelihood.
"""

import math
from inspect import unwrap

import pytest
import torch
from sklearn.decomposition import PCA
from synthetic import blobs
from torch import nn
from torch.distributions import Normal, kl_divergence

from randomz.batches import pixels
from randomz.gaussian import DiagonalGaussian
from randomz.likelihood import Likelihood
from randomz.likelihood_bounds import importance_bound, likelihood_bounds, log_weights
from randomz.models.vae import VAEOutput
from randomz.models.vae import loss as vae_loss
from randomz.seeding import generator

B, D = 8, 3
STRETCH, SHIFT = 1.4, 0.3  # how q(z | x) is made worse than p(z | x), the shift in standard deviations


class Affine(nn.Module):
    """z -> W z + b as an image."""

    def __init__(self, weight, bias):
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, z):
        return (z @ self.weight.T + self.bias).unflatten(-1, (1, 28, 28))


class PlainGaussian(Likelihood):
    """A Gaussian around what the decoder gives, without the sigmoid."""

    def mean(self, logits):
        return logits


class LinearVAE(nn.Module):
    """The PPCA model that a fitted PCA is; its q is p(z | x), stretched and shifted."""

    beta = 1.0

    def __init__(self, pca, stretch=1.0, shift=0.0):
        super().__init__()
        variance = pca.noise_variance_
        weight = torch.from_numpy(pca.components_.T * (pca.explained_variance_ - variance) ** 0.5)
        self.decoder = Affine(weight, torch.from_numpy(pca.mean_))
        self.likelihood = PlainGaussian("gaussian", 1.0).double()
        self.likelihood.log_sigma.fill_(0.5 * math.log(variance))
        # M = W^T W + sigma^2 I is diagonal, because the columns of W are orthogonal
        self.precision = torch.diagonal(weight.T @ weight) + variance
        self.variance = variance / self.precision
        self.stretch, self.shift = stretch, shift

    def exact_posterior(self, x):
        mean = (x.flatten(1) - self.decoder.bias) @ self.decoder.weight / self.precision
        return DiagonalGaussian(mean, self.variance.log().expand_as(mean))

    def posterior(self, x):
        exact = self.exact_posterior(x)
        return DiagonalGaussian(exact.mu + self.shift * exact.sigma, exact.logvar + 2 * math.log(self.stretch))

    def elbo(self, x):
        """E_q[log p(x | z)] - KL(q || p(z)) in closed form, from the library's own terms."""
        q = self.posterior(x)
        at_mean = -self.likelihood.nll(self.decoder(q.mu), x)
        spread = (q.logvar.exp() * self.decoder.weight.square().sum(0)).sum(-1)
        return at_mean - 0.5 * spread / torch.exp(2 * self.likelihood.log_sigma) - q.kl().sum(-1)


@pytest.fixture(scope="module")
def data():
    """Images with noise in every pixel, so that no direction is without variance."""
    images = pixels(blobs(1000, 1).images).double()
    return images + 0.2 * torch.randn(images.shape, generator=generator("test_elbo"), dtype=torch.float64)


@pytest.fixture(scope="module")
def pca(data):
    return PCA(D, svd_solver="covariance_eigh").fit(data.flatten(1).numpy())


@pytest.fixture(scope="module")
def x(data):
    return data[:B]


@pytest.fixture(scope="module")
def log_p(pca, x):
    """The exact log-likelihood of each image, nats."""
    return torch.from_numpy(pca.score_samples(x.flatten(1).numpy()))


@pytest.fixture(scope="module")
def gap(pca, x):
    """KL(q || p(z | x)) of the worse q, by torch."""
    worse, exact = LinearVAE(pca, STRETCH, SHIFT).posterior(x), LinearVAE(pca).posterior(x)
    return kl_divergence(Normal(worse.mu, worse.sigma), Normal(exact.mu, exact.sigma)).sum(-1)


def test_with_the_exact_posterior_the_elbo_is_the_log_likelihood(pca, x, log_p):
    torch.testing.assert_close(LinearVAE(pca).elbo(x), log_p, rtol=1e-9, atol=1e-6)


def test_with_a_worse_posterior_it_is_lower_by_the_kl(pca, x, log_p, gap):
    assert float(gap.min()) > 0.1
    torch.testing.assert_close(LinearVAE(pca, STRETCH, SHIFT).elbo(x) + gap, log_p, rtol=1e-9, atol=1e-6)


def test_with_the_exact_posterior_every_draw_has_the_log_likelihood_as_its_weight(pca, x, log_p):
    eps = torch.randn(7, B, D, generator=generator("test_elbo eps"), dtype=torch.float64)
    weights = log_weights(LinearVAE(pca), x, eps)
    torch.testing.assert_close(weights, log_p.expand(7, B), rtol=1e-9, atol=1e-6)


def test_the_loss_of_a_vae_is_minus_the_elbo_on_average(pca, x, log_p, gap):
    model = LinearVAE(pca, STRETCH, SHIFT)
    posterior = model.posterior(x)
    # Unwrapped, because this model is no VAE of the package but one with the same terms.
    totals = []
    for draw in range(1000):
        z = posterior.sample(torch.randn(B, D, generator=generator("test_elbo loss", draw), dtype=torch.float64))
        totals.append(unwrap(vae_loss)(model, VAEOutput(posterior, z, model.decoder(z)), x).total)
    totals = torch.stack(totals)
    error = (-totals.mean(0) - (log_p - gap)).abs()
    assert bool((error < 5 * totals.std(0) / math.sqrt(1000)).all())


@pytest.fixture(scope="module")
def bounds(pca, x):
    return likelihood_bounds(LinearVAE(pca, STRETCH, SHIFT), [x[:5], x[5:]], generator("test_elbo bounds"))


def test_bounds_rise_with_k_and_approach_the_log_likelihood_from_below(bounds, log_p, gap):
    means = [bounds[k].mean for k in (1, 10, 100, 1000)]
    assert means == sorted(means)
    exact = float(log_p.mean())
    assert means[0] == pytest.approx(exact - float(gap.mean()), abs=0.1)
    assert means[1] < exact
    assert exact - means[3] < 0.05 * (exact - means[0])


def test_the_standard_error_is_that_of_the_mean_over_images(pca, x, bounds):
    eps = torch.cat(
        [
            torch.randn(1000, count, D, generator=stream)
            for stream in [generator("test_elbo bounds")]
            for count in (5, 3)
        ],
        dim=1,
    )
    each = importance_bound(log_weights(LinearVAE(pca, STRETCH, SHIFT), x, eps.double()), 10)
    assert bounds[10].mean == pytest.approx(float(each.mean()), abs=1e-4)
    assert bounds[10].standard_error == pytest.approx(float(each.std()) / math.sqrt(B), rel=1e-4)


def test_a_bound_is_the_mean_over_groups_of_draws():
    weights = torch.tensor([[0.0], [math.log(3)], [1.0], [1.0]], dtype=torch.float64)
    torch.testing.assert_close(importance_bound(weights, 1), weights.mean(0))
    torch.testing.assert_close(importance_bound(weights, 2)[0], torch.tensor((math.log(2) + 1) / 2).double())


def test_k_has_to_divide_the_draws():
    with pytest.raises(ValueError, match="k is 3; a divisor of the 4 draws is accepted"):
        importance_bound(torch.zeros(4, 2), 3)
