"""The vector-quantised VAE (van den Oord, Vinyals, Kavukcuoglu 2017, arXiv:1711.00937).

z_q(x) = e_k with k = argmin_j |z_e(x) - e_j|_2; the gradient passes straight through from z_q to z_e.
Loss: reconstruction + |sg[z_e] - e|^2 (codebook, or running means instead) + beta |z_e - sg[e]|^2 (commitment).

Axes: B images, h w the grid of codes, K codebook entries, D their dimensions, M = B h w encoder vectors.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from randomz.likelihood import Likelihood
from randomz.models.base import LatentModel, Loss
from randomz.networks import Decoder, Encoder
from randomz.noise import Noise, draw
from randomz.params import NetworkConfig, VQVAEConfig

KMEANS_ITERATIONS = 10
COLUMNS = 32  # that the scores of all entries are laid out in
SLAB = 512  # vectors that are scored at once on a CPU: a megabyte of scores stays in the cache


@dataclass(frozen=True)
class VQVAEOutput:
    """Encoder vectors, the entries and indices that they were replaced by, and the logits of the reconstruction."""

    z_e: Float[Tensor, "B h w D"]
    e: Float[Tensor, "B h w D"]
    codes: Int64[Tensor, "B h w"]
    logits: Float[Tensor, "B 1 28 28"]


@dataclass(frozen=True)
class VQVAELoss(Loss):
    """`codebook` and `commitment` are squared distances summed over the grid, before any weight."""

    codebook: Float[Tensor, " B"]
    commitment: Float[Tensor, " B"]


def nearest_code(z_e: Float[Tensor, "*M D"], codebook: Float[Tensor, "K D"]) -> Int64[Tensor, "*M"]:
    """K = argmin_j |z_e - e_j|_2 = argmax_j z_e e_j - |e_j|^2 / 2; |z_e|^2 is the same for every j and left out."""
    flat = functional.pad(z_e.flatten(0, -2), (0, 1), value=1.0)
    entries = torch.cat([codebook, -0.5 * codebook.square().sum(-1, keepdim=True)], 1).T
    slabs = flat.split(SLAB if flat.device.type == "cpu" else max(1, len(flat)))
    return torch.cat([argmax_in_columns(slab @ entries) for slab in slabs]).view(z_e.shape[:-1])


def argmax_in_columns(scores: Float[Tensor, "M K"]) -> Int64[Tensor, " M"]:
    """The argmax of each row, laid out in columns: the column of the largest first, then its row there.

    On a CPU a maximum over many columns is vectorised and an argmax is not: for 512 scores this takes half the time.
    """
    if scores.shape[1] % COLUMNS:
        return scores.argmax(-1)
    table = scores.unflatten(1, (-1, COLUMNS))
    column: Tensor = table.amax(1).max(-1).indices
    row: Tensor = table[torch.arange(len(scores), device=scores.device), :, column].max(-1).indices
    return row * COLUMNS + column


def straight_through(z_e: Float[Tensor, "*M D"], e: Float[Tensor, "*M D"]) -> Float[Tensor, "*M D"]:
    """z_q: the value of e, the gradient of z_e."""
    return z_e + (e - z_e).detach()


def code_sums(
    z_e: Float[Tensor, "M D"], codes: Int64[Tensor, " M"], entries: int
) -> tuple[Float[Tensor, " K"], Float[Tensor, "K D"]]:
    """How many vectors chose each entry, and their sum."""
    counts = torch.zeros(entries, device=z_e.device).index_add_(0, codes, torch.ones_like(z_e[:, 0]))
    sums = torch.zeros(entries, z_e.shape[1], device=z_e.device).index_add_(0, codes, z_e)
    return counts, sums


def kmeans(z_e: Float[Tensor, "M D"], codebook: Float[Tensor, "K D"], iterations: int) -> Float[Tensor, "K D"]:
    """Lloyd's iterations from a first codebook; an entry that nothing chose stays where it is."""
    for _ in range(iterations):
        counts, sums = code_sums(z_e, nearest_code(z_e, codebook), len(codebook))
        codebook = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], codebook)
    return codebook


class Quantiser(nn.Module):
    """A K x D codebook that learns by running means (`ema`, appendix A.1 of the paper) or by gradient."""

    codebook: Tensor
    ema_count: Tensor
    ema_sum: Tensor

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.config = config
        codebook = torch.randn(config.codes, config.dimensions)
        if config.codebook == "gradient":
            self.codebook = nn.Parameter(codebook)
        else:
            self.register_buffer("codebook", codebook)
        self.register_buffer("ema_count", torch.ones(config.codes))
        self.register_buffer("ema_sum", codebook.clone())

    def forward(self, z_e: Float[Tensor, "B h w D"]) -> tuple[Float[Tensor, "B h w D"], Int64[Tensor, "B h w"]]:
        """The nearest entry of each vector and its index."""
        codes = nearest_code(z_e.detach(), self.codebook.detach())
        return self.codebook[codes], codes

    @torch.no_grad()
    def start(self, z_e: Float[Tensor, "M D"], noise: torch.Generator) -> None:
        """The first codebook: encoder vectors at random, or the k-means centres that they lead to."""
        codebook = _some(z_e, self.config.codes, noise)
        if self.config.start == "kmeans":
            codebook = kmeans(z_e, codebook, KMEANS_ITERATIONS)
        self.codebook.copy_(codebook)
        self.ema_count.fill_(max(1.0, self.config.restart))
        self.ema_sum.copy_(codebook * self.ema_count[:, None])

    @torch.no_grad()
    def update(self, z_e: Float[Tensor, "M D"], codes: Int64[Tensor, " M"], noise: Noise) -> None:
        """Running means of counts and sums; then dead entries take the place of encoder vectors of this batch.

        Without a branch on data, so that a CUDA graph can hold it: candidates for all K are drawn every time.
        """
        counts, sums = code_sums(z_e, codes, self.config.codes)
        self.ema_count.lerp_(counts, 1 - self.config.decay)
        self.ema_sum.lerp_(sums, 1 - self.config.decay)
        if self.config.codebook == "ema":
            self.codebook.copy_(self.ema_sum / self.ema_count.clamp(min=1e-6)[:, None])
        dead = (self.ema_count < self.config.restart)[:, None]
        candidates = _some(z_e, self.config.codes, noise)
        self.codebook.copy_(torch.where(dead, candidates, self.codebook))
        # A new entry gets the count of one that is used at its fair share, lest it be called dead again at once.
        fair = max(self.config.restart, len(z_e) / self.config.codes)
        self.ema_count.copy_(torch.where(dead[:, 0], fair, self.ema_count))
        self.ema_sum.copy_(torch.where(dead, candidates * fair, self.ema_sum))


def _some(z_e: Float[Tensor, "M D"], entries: int, noise: Noise) -> Float[Tensor, "K D"]:
    return z_e[draw(noise, z_e.device, torch.randint, len(z_e), (entries,))]


class VQVAE(LatentModel):
    """z_e from the encoder, its nearest codebook entries z_q, p(x | z_q) from the decoder."""

    def __init__(self, config: VQVAEConfig, network: NetworkConfig) -> None:
        super().__init__()
        size = config.grid * config.grid * config.dimensions
        self.shape = (config.grid, config.grid, config.dimensions)
        self.encoder = Encoder(size, network)
        self.quantiser = Quantiser(config)
        # An output layer that reads codes itself leaves them less dependent on each other, and a prior less to learn.
        self.decoder = Decoder(size, network, output_sees_z=False)
        self.likelihood = Likelihood(config.likelihood, config.sigma)
        self.beta = config.beta
        self.codebook_weight = float(config.codebook == "gradient")

    def z_e(self, x: Float[Tensor, "B 1 28 28"]) -> Float[Tensor, "B h w D"]:
        """Encoder vectors on their grid."""
        output: Tensor = self.encoder(x)
        return output.view(-1, *self.shape)

    def forward(self, x: Float[Tensor, "B 1 28 28"], noise: Noise) -> VQVAEOutput:  # noqa: ARG002
        """Quantisation is deterministic, so `noise` is left alone."""
        z_e = self.z_e(x)
        e, codes = self.quantiser(z_e)
        return VQVAEOutput(z_e, e, codes, self.decoder(straight_through(z_e, e).flatten(1)))

    def encode(self, x: Float[Tensor, "B 1 28 28"], noise: torch.Generator | None = None) -> Int64[Tensor, "B h w"]:  # noqa: ARG002
        """The index of the nearest entry at each place of the grid."""
        codes: Tensor = self.quantiser(self.z_e(x))[1]
        return codes

    def decode(self, codes: Int64[Tensor, "B h w"]) -> Float[Tensor, "B 1 28 28"]:
        """The mean image of p(x | z_q)."""
        return self.likelihood.mean(self.decoder(self.quantiser.codebook[codes].flatten(1)))

    def embed(self, codes: Int64[Tensor, "B h w"]) -> Float[Tensor, "B h*w*{self.shape[2]}"]:
        """The codebook entries side by side."""
        return self.quantiser.codebook.detach()[codes].flatten(1)

    def between(self, a: Int64[Tensor, "B h w"], b: Int64[Tensor, "B h w"], weight: float) -> Int64[Tensor, "B h w"]:
        """The codes nearest to the points on the way between two entries, place by place."""
        codebook = self.quantiser.codebook.detach()
        return nearest_code(torch.lerp(codebook[a], codebook[b], weight), codebook)

    def random_like(self, codes: Int64[Tensor, "B h w"], noise: torch.Generator) -> Int64[Tensor, "B h w"]:
        """Every entry of the codebook alike, at each place."""
        return torch.randint(len(self.quantiser.codebook), codes.shape, generator=noise).to(codes.device)

    def start(self, x: Float[Tensor, "B 1 28 28"], noise: torch.Generator) -> None:
        """The codebook starts from encoder vectors of training images."""
        with torch.no_grad():
            self.quantiser.start(self.z_e(x).flatten(0, 2), noise)

    def after_step(self, output: VQVAEOutput, noise: Noise) -> None:
        """The codebook's running means and restarts."""
        self.quantiser.update(output.z_e.detach().flatten(0, 2), output.codes.flatten(), noise)

    def diagnostics(self) -> dict[str, float]:
        """Entries that the running counts call dead, and the perplexity of those counts."""
        share = self.quantiser.ema_count / self.quantiser.ema_count.sum()
        perplexity = torch.exp(-(share * share.clamp(min=1e-12).log()).sum())
        dead = (self.quantiser.ema_count < self.quantiser.config.restart).sum()
        return {"dead_codes": float(dead), "running_perplexity": float(perplexity)}


def loss(model: VQVAE, output: VQVAEOutput, x: Float[Tensor, "B 1 28 28"]) -> VQVAELoss:
    """Each term reaches its own part: codebook the entries, commitment the encoder, reconstruction both networks."""
    reconstruction = model.likelihood.nll(output.logits, x)
    codebook = (output.z_e.detach() - output.e).square().flatten(1).sum(-1)
    commitment = (output.z_e - output.e.detach()).square().flatten(1).sum(-1)
    total = reconstruction + model.codebook_weight * codebook + model.beta * commitment
    return VQVAELoss(total=total, reconstruction=reconstruction, codebook=codebook, commitment=commitment)


build = VQVAE
