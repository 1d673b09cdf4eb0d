"""Priors over codes: every sampler of random z that a kind of model can be asked with, by its name in the reports."""

from typing import Any

import torch
from torch import Tensor

from randomz.params import Params
from randomz.priors.autoregressive import Autoregressive
from randomz.priors.base import Prior, Row, Say
from randomz.priors.codes import PositionCodes, UniformCodes
from randomz.priors.gaussian import FittedGaussian, StandardNormal
from randomz.priors.mixture import Mixture
from randomz.seeding import integer

__all__ = ["Prior", "Priors", "Row", "Say", "build_priors", "fit_priors", "load_priors", "priors_state"]

Priors = dict[str, Prior]


def build_priors(params: Params, name: str, seed: int) -> Priors:
    """The unfitted priors of one model entry; initial weights are a function of the seed alone.

    The oracle `posterior` is no prior: it encodes test images.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(integer("prior init", seed))
        return _build(params, name)


def _build(params: Params, name: str) -> Priors:
    model: Any = params.model(name)
    config: Any = getattr(params.prior, model.kind)
    if model.kind == "vqvae":
        return {
            "uniform": UniformCodes(model.codes, model.grid),
            "position": PositionCodes(model.codes, model.grid),
            "autoregressive": Autoregressive(model.codes, model.grid, config),
        }
    return {
        "standard_normal": StandardNormal(model.dimensions),
        "gaussian": FittedGaussian(model.dimensions),
        "gmm": Mixture(model.dimensions, config),
    }


def fit_priors(priors: Priors, codes: Tensor, validation: Tensor, seed: int, say: Say) -> None:
    """Fit each prior in place; `say` hears a row with seed, prior, epoch and validation_nats of each epoch.

    A prior with a closed form has one row, of epoch 0.
    """
    for name, prior in priors.items():
        rows: list[Row] = []
        prior.to(codes.device)
        prior.fit(codes, validation, seed, rows.append)
        rows = rows or [{"epoch": 0, "validation_nats": -float(prior.log_prob(validation).double().mean())}]
        for row in rows:
            say({"seed": seed, "prior": name, **row})


def priors_state(priors: Priors) -> dict[str, Tensor]:
    """The fitted tensors of all priors, by `<prior>.<tensor>`."""
    return {
        f"{name}.{key}": tensor.cpu() for name, prior in priors.items() for key, tensor in prior.state_dict().items()
    }


def load_priors(priors: Priors, state: dict[str, Tensor], device: torch.device) -> None:
    """Put the tensors that `priors_state` gave into unfitted priors. Raises RuntimeError when they do not fit."""
    for name, prior in priors.items():
        prefix = f"{name}."
        prior.load_state_dict({key.removeprefix(prefix): t for key, t in state.items() if key.startswith(prefix)})
        prior.to(device)
