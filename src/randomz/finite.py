"""A loss has to stay a number: NaN or an infinity stops a fit before it is kept."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor


class NonFiniteLossError(ValueError):
    """The loss became NaN or infinite; the message names the epoch, the step, the terms and their values."""


def check_steps(terms: Mapping[str, Float[Tensor, " S"]], epoch: int) -> None:
    """Raise NonFiniteLossError for the first of the S steps of an epoch (from 1) at which a term is not finite."""
    finite = torch.stack(list(terms.values())).isfinite().all(0)
    if not finite.all():
        index = int(finite.int().argmin())
        step = (epoch - 1) * len(finite) + index + 1
        check_finite({name: float(values[index]) for name, values in terms.items()}, f"epoch {epoch}, step {step}")


def check_finite(values: Mapping[str, float], where: str) -> None:
    """Raise NonFiniteLossError that names the place and what is not finite there."""
    wrong = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
    if wrong:
        raise NonFiniteLossError(f"{where}: {', '.join(wrong)}; a finite loss is accepted")
