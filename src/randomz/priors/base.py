"""What a prior over codes is: fitted to training codes, then a source of random z."""

import abc
from collections.abc import Callable
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

Row = dict[str, Any]  # one line of a history table
Say = Callable[[Row], None]


class Prior(nn.Module, abc.ABC):
    """`fit` and `sample` by scikit-learn's conventions; the fitted state is the module's own, so it saves as tensors.

    Codes are z [B d] float or indices of codebook entries [B h w] int64.
    """

    def fit(self, codes: Tensor, validation: Tensor, seed: int, say: Say) -> Self:  # noqa: ARG002
        """Fit to training codes; `validation` codes are for model selection, `say` hears of progress."""
        return self

    @abc.abstractmethod
    def sample(self, count: int, noise: torch.Generator) -> Tensor:
        """`count` codes drawn at random; every draw comes from `noise`."""

    @abc.abstractmethod
    def log_prob(self, codes: Tensor) -> Float[Tensor, " B"]:
        """Log density or log probability of each code, nats."""
