"""What a prior over codes is: fitted to training codes, then a source of random z."""

import abc
from collections.abc import Callable
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from randomz.resume import Checkpoints

Row = dict[str, Any]  # one line of a history table
Say = Callable[[Row], None]


class Prior(nn.Module, abc.ABC):
    """`fit` and `sample` by scikit-learn's conventions; the fitted state is the module's own, so it saves as tensors.

    Codes are z [B d] float or indices of codebook entries [B h w] int64.
    """

    def fit(
        self,
        codes: Tensor,  # noqa: ARG002
        validation: Tensor,  # noqa: ARG002
        seed: int,  # noqa: ARG002
        say: Say,  # noqa: ARG002
        checkpoints: Checkpoints | None = None,  # noqa: ARG002
    ) -> Self:
        """Fit to training codes; `validation` codes are for model selection, `say` hears of progress.

        With `checkpoints`, a fit of many epochs that was stopped goes on after its last one, to the same bits.
        """
        return self

    @abc.abstractmethod
    def sample(self, count: int, noise: torch.Generator) -> Tensor:
        """`count` codes drawn at random; every draw comes from `noise`."""

    @abc.abstractmethod
    def log_prob(self, codes: Tensor) -> Float[Tensor, " B"]:
        """Log density or log probability of each code, nats."""
