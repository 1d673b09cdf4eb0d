"""Priors over codes: every sampler of random z that a kind of model can be asked with, by its name in the reports."""

from typing import Any

import torch
from torch import Tensor

from randomz.finite import NonFiniteLossError
from randomz.models.base import LatentModel
from randomz.params import Params
from randomz.priors.autoregressive import Autoregressive
from randomz.priors.base import Prior, Row, Say
from randomz.priors.codes import PositionCodes, UniformCodes
from randomz.priors.flow import Flow
from randomz.priors.gaussian import FittedGaussian, StandardNormal
from randomz.priors.mixture import Mixture
from randomz.resume import Checkpoints
from randomz.seeding import global_stream

__all__ = ["Prior", "Priors", "Row", "Say", "build_priors", "fit_priors", "load_priors", "priors_state"]

Priors = dict[str, Prior]


def build_priors(params: Params, name: str, model: LatentModel, seed: int) -> Priors:
    """The unfitted priors over the codes of a trained model; initial weights are a function of it and of the seed.

    The oracle `posterior` is no prior: it encodes test images.
    """
    with global_stream("prior init", seed):
        return _build(params, name, model)


def _build(params: Params, name: str, model: Any) -> Priors:  # noqa: ANN401 (only a VQ-VAE has a codebook)
    entry: Any = params.model(name)
    config: Any = getattr(params.prior, entry.kind)
    if entry.kind == "vqvae":
        return {
            "uniform": UniformCodes(entry.codes, entry.grid),
            "position": PositionCodes(entry.codes, entry.grid),
            "autoregressive": Autoregressive(model.quantiser.codebook, entry.grid, config),
        }
    return {
        "standard_normal": StandardNormal(entry.dimensions),
        "gaussian": FittedGaussian(entry.dimensions),
        "gmm": Mixture(entry.dimensions, config.gmm),
        "flow": Flow(entry.dimensions, config.flow),
    }


def fit_priors(
    priors: Priors, codes: Tensor, validation: Tensor, seed: int, say: Say, checkpoints: Checkpoints | None = None
) -> None:
    """Fit each prior in place; `say` hears a row with seed, prior, components, epoch and validation_nats.

    There is a row for each epoch, one for each number of components of a mixture, and one of epoch 0 for a closed form.
    With `checkpoints`, a fit in epochs that was stopped goes on. Raises NonFiniteLossError that names prior and epoch.
    """
    for name, prior in priors.items():
        rows: list[Row] = []
        prior.to(codes.device)
        try:
            prior.fit(codes, validation, seed, rows.append, checkpoints.within(name) if checkpoints else None)
        except NonFiniteLossError as error:
            raise NonFiniteLossError(f"{name}, {error}") from error
        rows = rows or [{"epoch": 0, "validation_nats": -float(prior.log_prob(validation).double().mean())}]
        for row in rows:
            say({"seed": seed, "prior": name, "components": None, **row})


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
