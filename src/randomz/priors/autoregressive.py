"""An autoregressive prior over the grid of codes: p(m) p(k_1 | m) p(k_2 | m, k_1) ... in raster order.

m says which cluster of whole grids the image belongs to (k-means over all entries side by side): what the image is
like is decided first, and the codes work it out; without it, errors of the first codes lead the later ones astray.
The conditionals come from a masked perceptron, MADE (Germain et al. 2015, arXiv:1502.03509): one fully connected
network gives all of them at once, its weights masked so that a place sees m and the places before it. The VQ-VAE
paper fits a PixelCNN here, whose weights are shared over the grid; the codes of a fully connected encoder mean
something else at each place, so each has weights of its own.

Axes: B grids, N = h w places, K codes of D numbers, C clusters, U units a place, E numbers an embedded code has.
NU is all places' U side by side, and so for NI, NO and ND.
"""

import math
import warnings
from typing import Self

import torch
from jaxtyping import Float, Int64
from sklearn.cluster import MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn
from torch.nn import functional

from randomz.noise import Noise
from randomz.params import CodePriorConfig
from randomz.priors.base import Prior, Say
from randomz.priors.likelihood import maximise_likelihood
from randomz.priors.masked import MaskedLinear, cross_entropy_by_place, dropout
from randomz.resume import Checkpoints
from randomz.seeding import generator, integer

CHUNK = 1000
FREQUENCIES = (0.5, 3.0)  # of the features of entries, in standard deviations of the codebook


class Block(nn.Module):
    """Two masked layers whose result is added to the state."""

    def __init__(self, places: int, units: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.first = MaskedLinear(places, units, units)
        self.second = MaskedLinear(places, units, units)
        with torch.no_grad():
            for weight in self.second.weights:
                weight.mul_(0.3)  # close to the identity at first, as residual networks want

    def forward(self, state: Float[Tensor, "B NU"], noise: Noise | None = None) -> Float[Tensor, "B NU"]:
        """The new state of all places; with `noise` some units are dropped."""
        inner = functional.silu(self.first(functional.silu(state)))
        added: Tensor = self.second(inner if noise is None else dropout(inner, self.dropout, noise))
        return state + added


class Autoregressive(Prior):
    """The network with its training and its sampling, over the codes of one codebook."""

    codebook: Tensor
    centres: Tensor
    cluster_shares: Tensor
    offsets: Tensor

    def __init__(self, codebook: Float[Tensor, "K D"], grid: int, config: CodePriorConfig) -> None:
        super().__init__()
        places, (entries, dimensions) = grid * grid, codebook.shape
        self.grid, self.config = grid, config
        self.register_buffer("codebook", codebook.detach().clone(), persistent=False)
        self.register_buffer("centres", torch.zeros(config.clusters, places * dimensions))
        self.register_buffer("cluster_shares", torch.full((config.clusters,), 1 / config.clusters))
        self.register_buffer("offsets", torch.arange(places - 1) * entries, persistent=False)
        self.cluster_embedding = nn.Embedding(config.clusters, config.embedding)
        self.embedding = nn.Embedding((places - 1) * entries, config.embedding)
        self.input = MaskedLinear(places, config.embedding, config.units)
        self.blocks = nn.ModuleList(Block(places, config.units, config.dropout) for _ in range(config.depth))
        self.head = nn.Parameter(torch.empty(places, config.units, entries))
        self.head_bias = nn.Parameter(torch.zeros(places, 1, entries))
        self._start()

    @torch.no_grad()
    def _start(self) -> None:
        """Entries that lie close together start alike, on the way in and out: what is learned of one holds for both."""
        nn.init.normal_(self.cluster_embedding.weight, std=0.3)
        features = fourier_features(self.codebook, self.config.embedding)
        self.embedding.weight.copy_(0.4 * features.repeat(len(self.offsets), 1))
        self.head.copy_(0.3 * self.config.units**-0.5 * fourier_features(self.codebook, self.config.units).T)

    def hidden(
        self, clusters: Int64[Tensor, " B"], flat: Int64[Tensor, "B N"], noise: Noise | None = None
    ) -> Float[Tensor, "N B U"]:
        """What the logits of each place are linear in; with `noise` some inputs and units are dropped."""
        before = self.embedding(flat[:, :-1] + self.offsets).flatten(1)
        embedded = torch.cat([self.cluster_embedding(clusters), before], 1)
        state = self.input(embedded if noise is None else dropout(embedded, self.config.dropout, noise))
        for block in self.blocks:
            state = block(state, noise)
        by_grid: Tensor = functional.silu(state).unflatten(1, (-1, self.config.units))
        return by_grid.transpose(0, 1)

    def forward(self, clusters: Int64[Tensor, " B"], flat: Int64[Tensor, "B N"]) -> Float[Tensor, "B N K"]:
        """Logits of each place given the cluster and the places before it."""
        return torch.baddbmm(self.head_bias, self.hidden(clusters, flat), self.head).transpose(0, 1)

    def fit(
        self,
        codes: Int64[Tensor, "B h w"],
        validation: Int64[Tensor, "V h w"],
        seed: int,
        say: Say,
        checkpoints: Checkpoints | None = None,
    ) -> Self:
        """Clusters by k-means, then maximum likelihood; the weights of the epoch best on validation are kept.

        Raises ValueError when there are fewer grids than clusters.
        """
        self._find_clusters(codes, seed)
        clusters, flat = self.cluster(codes), codes.flatten(1)
        counts = torch.bincount(clusters, minlength=len(self.centres)) + 1  # no cluster is impossible
        self.cluster_shares.copy_(counts / counts.sum())
        with torch.no_grad():  # from the frequencies of each place, which the network need not learn then
            counts = torch.stack([torch.bincount(place, minlength=len(self.codebook)) for place in flat.T]) + 1
            self.head_bias.copy_((counts / counts.sum(1, keepdim=True)).log()[:, None])

        def loss(batch: Tensor, noise: Noise) -> Tensor:
            hidden = self.hidden(clusters[batch], flat[batch], noise)
            return cross_entropy_by_place(hidden, self.head, self.head_bias, flat[batch].T)

        def validate() -> float:
            return -float(self.log_prob(validation).double().mean())

        maximise_likelihood(self, loss, validate, codes, self.config, self.config.weight_decay, seed, say, checkpoints)
        return self

    def _find_clusters(self, codes: Int64[Tensor, "B h w"], seed: int) -> None:
        if len(codes) < len(self.centres):
            raise ValueError(
                f"prior: found {len(codes)} grids of codes for {len(self.centres)} clusters; "
                "at least as many grids as clusters are accepted"
            )
        means = MiniBatchKMeans(
            len(self.centres), batch_size=4096, n_init=1, random_state=integer("code clusters", seed)
        )
        with warnings.catch_warnings():
            # A collapsed codebook has fewer different grids than clusters; those left over are just never drawn.
            warnings.simplefilter("ignore", ConvergenceWarning)
            means.fit(self._embedded(codes).cpu().numpy())
        self.centres.copy_(torch.from_numpy(means.cluster_centers_))

    def _embedded(self, codes: Int64[Tensor, "B h w"]) -> Float[Tensor, "B ND"]:
        return self.codebook[codes].flatten(1)

    def cluster(self, codes: Int64[Tensor, "B h w"]) -> Int64[Tensor, " B"]:
        """The cluster that each grid belongs to."""
        return torch.cat([torch.cdist(self._embedded(c), self.centres).argmin(1) for c in codes.split(CHUNK)])

    @torch.no_grad()
    def sample(self, count: int, noise: torch.Generator) -> Int64[Tensor, "N h w"]:
        """Random grids, place by place, at temperature 1."""
        self.eval()
        return torch.cat([self._sample(min(CHUNK, count - start), noise) for start in range(0, count, CHUNK)])

    def _sample(self, count: int, noise: torch.Generator) -> Int64[Tensor, "B h w"]:
        """A place is worked out from the kept states of the places before it, which are never computed again."""
        device = self.head.device
        # Drawn on the CPU, where the stream is the same whatever the device.
        clusters = torch.multinomial(self.cluster_shares.cpu(), count, replacement=True, generator=noise).to(device)
        codes, embedded = [], self.cluster_embedding(clusters)
        kept = [[torch.empty(count, 0, device=device)] * 2 for _ in self.blocks]
        for place in range(len(self.head)):
            state = self.input.at(place, embedded)
            for block, layers in zip(self.blocks, kept, strict=True):
                assert isinstance(block, Block)
                layers[0] = torch.cat([layers[0], functional.silu(state)], 1)
                layers[1] = torch.cat([layers[1], functional.silu(block.first.at(place, layers[0]))], 1)
                state = state + block.second.at(place, layers[1])
            shares = (functional.silu(state) @ self.head[place] + self.head_bias[place]).softmax(-1)
            drawn = draw(shares.cpu(), noise).to(device)
            codes.append(drawn)
            if place < len(self.offsets):
                embedded = torch.cat([embedded, self.embedding(drawn[:, 0] + self.offsets[place])], 1)
        grids: Tensor = torch.cat(codes, 1).unflatten(1, (self.grid, self.grid))
        return grids

    def log_prob(self, codes: Int64[Tensor, "B h w"]) -> Float[Tensor, " B"]:
        """Log probability of each grid together with its own cluster, nats.

        A bound: a grid could also be drawn by way of another cluster, so that its log probability is a little higher.
        """
        return self.log_joint(self.cluster(codes), codes)

    @torch.no_grad()
    def log_joint(self, clusters: Int64[Tensor, " B"], codes: Int64[Tensor, "B h w"]) -> Float[Tensor, " B"]:
        """Log p(m) p(codes | m), nats."""
        self.eval()
        each = []
        for m, flat in zip(clusters.split(CHUNK), codes.flatten(1).split(CHUNK), strict=True):
            nats = functional.cross_entropy(self(m, flat).flatten(0, 1), flat.flatten(), reduction="none")
            each.append(self.cluster_shares[m].log() - nats.view(flat.shape).sum(-1))
        return torch.cat(each)


def draw(shares: Float[Tensor, "B K"], noise: torch.Generator) -> Int64[Tensor, "B 1"]:
    """An index a row, by one uniform number; torch.multinomial draws one for each of the K."""
    cumulative = shares.cumsum(-1)
    level = torch.rand(len(shares), 1, generator=noise) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, level, right=True).clamp_(max=shares.shape[1] - 1)


def fourier_features(codebook: Float[Tensor, "K D"], count: int) -> Float[Tensor, "K count"]:
    """Random Fourier features of the entries, variance 1 (Rahimi, Recht 2007): close entries have like features."""
    centred = codebook - codebook.mean(0)
    standard = (centred / centred.std().clamp(min=1e-6)).cpu()
    draws = generator("fourier features", count)
    frequencies = torch.randn(standard.shape[1], count, generator=draws) * torch.linspace(*FREQUENCIES, count)
    phases = 2 * math.pi * torch.rand(count, generator=draws)
    return math.sqrt(2) * torch.cos(standard @ frequencies + phases).to(codebook.device)
