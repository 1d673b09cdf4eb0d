"""A causal transformer over the grid of codes: p(k_1) p(k_2 | k_1) ... in raster order.

The VQ-VAE paper fits a PixelCNN here; on a small grid a transformer of the same cost has no blind spot.
Axes: B grids, N = h w places, K codes, W width, H heads.
"""

import copy
from typing import Self

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from randomz.batches import epoch_order
from randomz.params import CodePriorConfig
from randomz.priors.base import Prior, Say
from randomz.schedule import one_cycle
from randomz.seeding import integer

WARMUP = 0.1
Cache = list[tuple[Tensor, Tensor]]


class Block(nn.Module):
    """Attention to the places before, then a perceptron, each on a normalised copy of what it adds to."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.norm_attention, self.norm_perceptron = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.perceptron = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(
        self, h: Float[Tensor, "B N W"], past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The new states, and the keys and values of all places so far. With a past, h holds one new place."""
        q, k, v = self.queries_keys_values(self.norm_attention(h)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=past is None)
        h = h + functional.dropout(self.out(mixed.transpose(1, 2).flatten(2)), self.dropout, self.training)
        return h + self.perceptron(self.norm_perceptron(h)), (k, v)


class Autoregressive(Prior):
    """The transformer with its training and its sampling."""

    def __init__(self, entries: int, grid: int, config: CodePriorConfig) -> None:
        super().__init__()
        self.entries, self.grid, self.config = entries, grid, config
        self.embedding = nn.Embedding(entries + 1, config.width)  # the last one stands before the first place
        self.place = nn.Parameter(torch.zeros(grid * grid, config.width))
        self.blocks = nn.ModuleList(Block(config.width, config.heads, config.dropout) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, entries)
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.place, std=0.02)

    def forward(self, flat: Int64[Tensor, "B N"]) -> Float[Tensor, "B N K"]:
        """Logits of each place given the places before it."""
        start = torch.full_like(flat[:, :1], self.entries)
        h = functional.dropout(
            self.embedding(torch.cat([start, flat[:, :-1]], 1)) + self.place,
            self.config.dropout,
            self.training,
        )
        for block in self.blocks:
            h, _ = block(h)
        logits: Tensor = self.head(self.norm(h))
        return logits

    def fit(self, codes: Int64[Tensor, "B h w"], validation: Int64[Tensor, "V h w"], seed: int, say: Say) -> Self:
        """Maximum likelihood with AdamW; the weights of the epoch that is best on validation are kept."""
        config, flat = self.config, codes.flatten(1)
        matrices = [p for p in self.parameters() if p.ndim > 1]
        vectors = [p for p in self.parameters() if p.ndim == 1]
        groups = [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=True)
        best = float("inf")
        kept = copy.deepcopy(self.state_dict())
        for epoch in range(config.epochs):
            order = epoch_order(len(flat), config.batch_size, integer("prior order", seed), epoch).to(flat.device)
            self.train()
            for index, batch in enumerate(order):
                rate = one_cycle(epoch * len(order) + index, config.epochs * len(order), config.learning_rate, WARMUP)
                for group in optimiser.param_groups:
                    group["lr"] = rate
                with torch.random.fork_rng(devices=[]):  # dropout draws from the global stream only
                    torch.manual_seed(integer("prior dropout", seed, epoch, index))
                    logits = self(flat[batch])
                nats = functional.cross_entropy(logits.flatten(0, 1), flat[batch].flatten())
                optimiser.zero_grad()
                nats.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            nats_per_grid = -self.log_prob(validation).mean().item()
            say({"epoch": epoch + 1, "validation_nats": nats_per_grid})
            if nats_per_grid < best:
                best, kept = nats_per_grid, copy.deepcopy(self.state_dict())
        self.load_state_dict(kept)
        return self

    @torch.no_grad()
    def sample(self, count: int, noise: torch.Generator) -> Int64[Tensor, "N h w"]:
        """Random grids, place by place at temperature 1; keys and values of earlier places are kept, not recomputed."""
        self.eval()
        chunks = [self._sample_chunk(min(1000, count - start), noise) for start in range(0, count, 1000)]
        return torch.cat(chunks)

    def _sample_chunk(self, count: int, noise: torch.Generator) -> Int64[Tensor, "N h w"]:
        codes = torch.full((count, 1), self.entries)
        cache: list[tuple[Tensor, Tensor] | None] = [None] * len(self.blocks)
        for place in range(self.grid * self.grid):
            h = self.embedding(codes[:, -1:]) + self.place[place]
            for index, block in enumerate(self.blocks):
                h, cache[index] = block(h, cache[index])
            shares = self.head(self.norm(h[:, 0])).softmax(-1)
            codes = torch.cat([codes, torch.multinomial(shares, 1, generator=noise)], 1)
        return codes[:, 1:].unflatten(1, (self.grid, self.grid))

    @torch.no_grad()
    def log_prob(self, codes: Int64[Tensor, "B h w"]) -> Float[Tensor, " B"]:
        """Log probability of each grid, nats."""
        self.eval()
        each = []
        for flat in codes.flatten(1).split(1000):
            nats = functional.cross_entropy(self(flat).flatten(0, 1), flat.flatten(), reduction="none")
            each.append(-nats.view(flat.shape).sum(-1))
        return torch.cat(each)
