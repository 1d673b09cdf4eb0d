"""A Gaussian mixture over z, fitted after training (Ghosh et al. 2020, arXiv:1903.12436, 'ex-post density').

With F(z) = [1, z, z z^T] the log density of a Gaussian is linear in F, and its mean and covariance follow from
the mean of F (an exponential family). So a step of EM (Dempster, Laird, Rubin 1977) is two matrix products:
responsibilities from F times natural parameters, then weighted sums of F.

A component's covariance can be drawn towards that within all components, as if `shrinkage` codes more had been seen in
it that vary so (after Fraley, Raftery 2007, "Bayesian regularization for normal mixture estimation"). That helps where
most of the variance is a posterior's own, which is alike everywhere; an autoencoder's clusters are not alike.

Axes: B codes, d dimensions, C components, S = 1 + d + d (d + 1) / 2 sufficient statistics.
"""

import math
import warnings
from typing import Self

import torch
from jaxtyping import Float, Float64, Int64
from sklearn.cluster import MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from randomz.params import MixtureConfig
from randomz.priors.base import Prior, Say
from randomz.resume import Checkpoints
from randomz.seeding import generator, integer

RIDGE = 1e-6  # share of the codes' variance that every covariance gets on its diagonal
LEAST_VARIANCE = 1e-8  # where all codes are alike
TOLERANCE = 1e-4  # nats a code: EM has converged when an iteration gains less
CHUNK = 2000  # codes at a time: what comes of them stays in the cache
FARTHEST = 600.0  # nats below the likeliest component: products with a share of e^-710 would take 100 times as long


class Mixture(Prior):
    """Up to C Gaussians with full covariances, by EM; as many as are best on validation codes.

    Where fewer than C are best, the others have weight 0, so that every fit has tensors of one shape.
    """

    weights: Tensor
    means: Tensor
    scales: Tensor

    def __init__(self, dimensions: int, config: MixtureConfig) -> None:
        super().__init__()
        self.config = config
        most = max(config.components)
        self.register_buffer("weights", torch.full((most,), 1 / most))
        self.register_buffer("means", torch.zeros(most, dimensions))
        self.register_buffer("scales", torch.eye(dimensions).repeat(most, 1, 1))

    def fit(
        self,
        codes: Float[Tensor, "B d"],
        validation: Float[Tensor, "V d"],
        seed: int,
        say: Say,
        checkpoints: Checkpoints | None = None,  # noqa: ARG002
    ) -> Self:
        """EM from k-means, for each number of components that the config names.

        Raises ValueError when there are fewer codes than components.
        """
        available, most = min(len(codes), self.config.codes), max(self.config.components)
        if available < most:
            raise ValueError(
                f"prior: found {available} codes for {most} components; "
                "at least as many codes as components are accepted"
            )
        order = torch.randperm(len(codes), generator=generator("mixture codes", seed))
        chosen = codes[order[: self.config.codes].to(codes.device)].double()
        mean = chosen.mean(0)
        # Without their mean z z^T is small, so that differences of large numbers lose no digits.
        statistics = sufficient_statistics(chosen - mean)
        best, kept = float("inf"), self.state_dict()
        for turn, components in enumerate(self.config.components, 1):
            weights, means, covariances = expectation_maximisation(statistics, components, self.config, seed)
            self._take(weights, means + mean, covariances)
            nats = -float(self.log_prob(validation).double().mean())
            say({"epoch": turn, "components": components, "validation_nats": nats})
            if nats < best:
                best, kept = nats, {name: tensor.clone() for name, tensor in self.state_dict().items()}
        self.load_state_dict(kept)
        return self

    def _take(
        self, weights: Float64[Tensor, " C"], means: Float64[Tensor, "C d"], covariances: Float64[Tensor, "C d d"]
    ) -> None:
        fitted = slice(len(weights))
        self.weights.zero_()[fitted] = weights.float()
        self.means[fitted] = means.float()
        self.scales[fitted] = torch.linalg.cholesky(covariances).float()

    def sample(self, count: int, noise: torch.Generator) -> Float[Tensor, "N d"]:
        """Random z: a component by its weight, then a draw from it."""
        chosen = torch.multinomial(self.weights.cpu(), count, replacement=True, generator=noise).to(self.means.device)
        eps = torch.randn(count, self.means.shape[1], generator=noise).to(self.means.device)
        return self.means[chosen] + torch.einsum("nij,nj->ni", self.scales[chosen], eps)

    def log_prob(self, codes: Float[Tensor, "B d"]) -> Float[Tensor, " B"]:
        """Log of the mixture's density, nats."""
        scales = self.scales.double()
        natural = natural_parameters(self.weights.double(), self.means.double(), scales @ scales.mT)
        each = [(sufficient_statistics(part.double()) @ natural).logsumexp(1) for part in codes.split(CHUNK)]
        return torch.cat(each).to(codes.dtype)


def sufficient_statistics(codes: Float64[Tensor, "B d"]) -> Float64[Tensor, "B S"]:
    """F(z) = [1, z, z z^T], of the symmetric z z^T the upper triangle."""
    products = [code * codes[:, place:] for place, code in enumerate(codes.split(1, 1))]
    return torch.cat([torch.ones_like(codes[:, :1]), codes, *products], 1)


def _dimensions(statistics: Float64[Tensor, "... S"]) -> int:
    return (math.isqrt(8 * statistics.shape[-1] + 1) - 3) // 2  # S = (d + 1) (d + 2) / 2


def natural_parameters(
    weights: Float64[Tensor, " C"], means: Float64[Tensor, "C d"], covariances: Float64[Tensor, "C d d"]
) -> Float64[Tensor, "S C"]:
    """What F(z) is multiplied by to give the log of weight times density of each component."""
    factors = torch.linalg.cholesky(covariances)
    precisions = torch.cholesky_inverse(factors)
    linear = torch.einsum("cij,cj->ci", precisions, means)
    log_determinants = 2 * factors.diagonal(dim1=1, dim2=2).log().sum(1)
    constant = means.shape[1] * math.log(2 * math.pi) + log_determinants + (linear * means).sum(1)
    rows, columns = torch.triu_indices(means.shape[1], means.shape[1], device=means.device)
    quadratic = precisions[:, rows, columns] * torch.where(rows == columns, -0.5, -1.0)  # z_i z_j stands for two
    return torch.cat([(weights.log() - 0.5 * constant)[:, None], linear, quadratic], 1).T


def expectation_maximisation(
    statistics: Float64[Tensor, "B S"], components: int, config: MixtureConfig, seed: int
) -> tuple[Float64[Tensor, " C"], Float64[Tensor, "C d"], Float64[Tensor, "C d d"]]:
    """Weights, means and covariances after at most so many iterations from k-means clusters of the codes."""
    codes = statistics[:, 1 : 1 + _dimensions(statistics)]
    shrinkage, ridge = config.shrinkage, max(RIDGE * float(codes.var()), LEAST_VARIANCE)
    labels = _clusters(codes, components, seed)
    sums = torch.zeros(components, statistics.shape[1], dtype=codes.dtype, device=codes.device)
    mixture = _maximise(sums.index_add_(0, labels, statistics), shrinkage, ridge)
    before = -math.inf
    for _ in range(config.iterations):
        total, gained = torch.zeros_like(sums), 0.0
        natural = natural_parameters(*mixture)
        for part in statistics.split(CHUNK):
            joint = part @ natural
            joint = torch.maximum(joint, joint.amax(1, keepdim=True) - FARTHEST)
            density = joint.logsumexp(1, keepdim=True)
            total.addmm_((joint - density).exp().T, part)
            gained += float(density.sum())
        mixture = _maximise(total, shrinkage, ridge)
        if (gained - before) / len(codes) < TOLERANCE:
            break
        before = gained
    return mixture


def _maximise(
    sums: Float64[Tensor, "C S"], shrinkage: float, ridge: float
) -> tuple[Float64[Tensor, " C"], Float64[Tensor, "C d"], Float64[Tensor, "C d d"]]:
    """The mixture whose expected statistics are these sums over codes."""
    counts = sums[:, 0].clamp(min=1e-10)
    dimensions = _dimensions(sums)
    means = sums[:, 1 : 1 + dimensions] / counts[:, None]
    rows, columns = torch.triu_indices(dimensions, dimensions, device=sums.device)
    squares = sums.new_empty(len(sums), dimensions, dimensions)
    squares[:, rows, columns] = squares[:, columns, rows] = sums[:, 1 + dimensions :] / counts[:, None]
    covariances = squares - torch.einsum("ci,cj->cij", means, means)
    within = torch.einsum("c,cij->ij", counts / counts.sum(), covariances)
    seen = counts[:, None, None]
    covariances = (seen * covariances + shrinkage * within) / (seen + shrinkage)
    identity = torch.eye(dimensions, dtype=sums.dtype, device=sums.device)
    return counts / counts.sum(), means, covariances + ridge * identity


def _clusters(codes: Float64[Tensor, "B d"], components: int, seed: int) -> Int64[Tensor, " B"]:
    means = MiniBatchKMeans(components, batch_size=4096, n_init=1, random_state=integer("mixture", seed))
    with warnings.catch_warnings():
        # Codes that repeat can leave clusters empty; their components get next to no weight.
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = means.fit_predict(codes.cpu().numpy())
    return torch.from_numpy(labels).long().to(codes.device)
