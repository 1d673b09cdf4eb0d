"""An autoregressive prior over the grid of codes: p(k_1) p(k_2 | k_1) ... in raster order, by a masked perceptron.

MADE (Germain et al. 2015, arXiv:1502.03509): one fully connected network gives every conditional at once, its weights
masked so that a place sees only the places before it. The VQ-VAE paper fits a PixelCNN here, whose weights are shared
over the grid; the codes of a fully connected encoder mean something else at each place, so each has weights of its own.

Axes: B grids, N = h w places, K codes, U units a place, E numbers an embedded code has.
NU is all places' U side by side, and so for NI and NO.
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
CHUNK = 1000


class MaskedLinear(nn.Module):
    """A linear layer over N places in which a place gets from the places before it, and from itself unless strict."""

    mask: Tensor

    def __init__(self, places: int, inputs: int, outputs: int, *, strict: bool) -> None:
        super().__init__()
        self.inputs, self.outputs, self.strict = inputs, outputs, strict
        seen = torch.tril(torch.ones(places, places), -1 if strict else 0)
        self.register_buffer("mask", torch.kron(seen, torch.ones(outputs, inputs)), persistent=False)
        # Each row is scaled by the number of inputs that its mask leaves (He et al. 2015).
        scale = (2 / self.mask.sum(1, keepdim=True).clamp(min=1)).sqrt()
        self.weight = nn.Parameter(torch.randn(self.mask.shape) * scale)
        self.bias = nn.Parameter(torch.zeros(places * outputs))

    def forward(self, x: Float[Tensor, "B NI"]) -> Float[Tensor, "B NO"]:
        """All places at once."""
        return functional.linear(x, self.weight * self.mask, self.bias)

    def at(self, place: int, x: Float[Tensor, "B seen"]) -> Float[Tensor, "B outputs"]:
        """One place, from what the places that it may see hold."""
        rows = slice(place * self.outputs, (place + 1) * self.outputs)
        columns = (place + (not self.strict)) * self.inputs
        return functional.linear(x[:, :columns], self.weight[rows, :columns], self.bias[rows])


class Block(nn.Module):
    """Two masked layers whose result is added to the state."""

    def __init__(self, places: int, units: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.first = MaskedLinear(places, units, units, strict=False)
        self.second = MaskedLinear(places, units, units, strict=False)
        with torch.no_grad():
            self.second.weight.mul_(0.3)  # close to the identity at first, as residual networks want

    def forward(self, state: Float[Tensor, "B NU"]) -> Float[Tensor, "B NU"]:
        """The new state of all places."""
        inner = functional.silu(self.first(functional.silu(state)))
        added: Tensor = self.second(functional.dropout(inner, self.dropout, self.training))
        return state + added


class Autoregressive(Prior):
    """The network with its training and its sampling."""

    offsets: Tensor

    def __init__(self, entries: int, grid: int, config: CodePriorConfig) -> None:
        super().__init__()
        places = grid * grid
        self.entries, self.grid, self.config = entries, grid, config
        self.embedding = nn.Embedding(places * entries, config.embedding)
        self.input = MaskedLinear(places, config.embedding, config.units, strict=True)
        self.blocks = nn.ModuleList(Block(places, config.units, config.dropout) for _ in range(config.depth))
        self.head = nn.Parameter(torch.randn(places, config.units, entries) * 0.1 * config.units**-0.5)
        self.head_bias = nn.Parameter(torch.zeros(places, 1, entries))
        self.register_buffer("offsets", torch.arange(places) * entries, persistent=False)
        nn.init.normal_(self.embedding.weight, std=0.3)

    def forward(self, flat: Int64[Tensor, "B N"]) -> Float[Tensor, "B N K"]:
        """Logits of each place given the places before it."""
        embedded = self.embedding(flat + self.offsets).flatten(1)
        state = self.input(functional.dropout(embedded, self.config.dropout, self.training))
        for block in self.blocks:
            state = block(state)
        by_place = functional.silu(state).unflatten(1, (-1, self.config.units)).transpose(0, 1)
        logits: Tensor = torch.bmm(by_place, self.head) + self.head_bias
        return logits.transpose(0, 1)

    def fit(self, codes: Int64[Tensor, "B h w"], validation: Int64[Tensor, "V h w"], seed: int, say: Say) -> Self:
        """Maximum likelihood with AdamW; the weights of the epoch that is best on validation are kept."""
        config, flat = self.config, codes.flatten(1)
        optimiser = torch.optim.AdamW(
            self.parameters(), lr=0.0, weight_decay=config.weight_decay, betas=(0.9, 0.95), fused=True
        )
        best, kept = float("inf"), copy.deepcopy(self.state_dict())
        for epoch in range(config.epochs):
            order = epoch_order(len(flat), config.batch_size, integer("prior order", seed), epoch).to(flat.device)
            for index, batch in enumerate(order):
                step = epoch * len(order) + index
                rate = one_cycle(step, config.epochs * len(order), config.learning_rate, WARMUP)
                optimiser.param_groups[0]["lr"] = rate
                self._step(flat[batch], optimiser, integer("prior dropout", seed, step))
            nats = -float(self.log_prob(validation).double().mean())
            say({"epoch": epoch + 1, "validation_nats": nats})
            if nats < best:
                best, kept = nats, copy.deepcopy(self.state_dict())
        self.load_state_dict(kept)
        return self

    def _step(self, flat: Int64[Tensor, "B N"], optimiser: torch.optim.Optimizer, dropout_seed: int) -> None:
        self.train()
        with torch.random.fork_rng(devices=[]):  # dropout can draw from the global stream only
            torch.manual_seed(dropout_seed)
            logits = self(flat)
        loss = functional.cross_entropy(logits.flatten(0, 1), flat.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    @torch.no_grad()
    def sample(self, count: int, noise: torch.Generator) -> Int64[Tensor, "N h w"]:
        """Random grids, place by place, at temperature 1."""
        self.eval()
        return torch.cat([self._sample(min(CHUNK, count - start), noise) for start in range(0, count, CHUNK)])

    def _sample(self, count: int, noise: torch.Generator) -> Int64[Tensor, "B h w"]:
        """A place is worked out from the kept states of the places before it, which are never computed again."""
        device = self.head.device
        codes, embedded = [], torch.empty(count, 0, device=device)
        kept = [[torch.empty(count, 0, device=device)] * 2 for _ in self.blocks]
        for place in range(self.grid * self.grid):
            state = self.input.at(place, embedded)
            for block, layers in zip(self.blocks, kept, strict=True):
                assert isinstance(block, Block)
                layers[0] = torch.cat([layers[0], functional.silu(state)], 1)
                layers[1] = torch.cat([layers[1], functional.silu(block.first.at(place, layers[0]))], 1)
                state = state + block.second.at(place, layers[1])
            shares = (functional.silu(state) @ self.head[place] + self.head_bias[place]).softmax(-1)
            # Drawn on the CPU, where the stream is the same whatever the device.
            drawn = torch.multinomial(shares.cpu(), 1, generator=noise).to(device)
            codes.append(drawn)
            embedded = torch.cat([embedded, self.embedding(drawn[:, 0] + self.offsets[place])], 1)
        grids: Tensor = torch.cat(codes, 1).unflatten(1, (self.grid, self.grid))
        return grids

    @torch.no_grad()
    def log_prob(self, codes: Int64[Tensor, "B h w"]) -> Float[Tensor, " B"]:
        """Log probability of each grid, nats."""
        self.eval()
        each = []
        for flat in codes.flatten(1).split(CHUNK):
            nats = functional.cross_entropy(self(flat).flatten(0, 1), flat.flatten(), reduction="none")
            each.append(-nats.view(flat.shape).sum(-1))
        return torch.cat(each)
