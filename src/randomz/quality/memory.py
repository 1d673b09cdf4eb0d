"""Whether a model repeats its training images.

Authenticity: Alaa et al. 2022, "How faithful is your synthetic data?".
"""

from jaxtyping import Float, Float64
from torch import Tensor

from randomz.quality.checks import check_features, check_finite
from randomz.quality.manifold import nearest_distances


def nearest_gaps(training: Float[Tensor, "N F"]) -> Float64[Tensor, " N"]:
    """Distance of each training vector to the nearest other one."""
    return nearest_distances(training, training, 1, exclude_self=True)[0][:, 0]


def authenticity(
    samples: Float[Tensor, "M F"], training: Float[Tensor, "N F"], training_gaps: Float[Tensor, " N"]
) -> float:
    """Share of samples farther from the nearest training vector than that one is from its own nearest other.

    `training_gaps` comes from `nearest_gaps(training)`. Copies score 0, fresh images of the same kind a half
    or somewhat more, images of another kind 1: a high score alone is no praise.
    """
    check_features("training", training)
    check_features("samples", samples, training.shape[1])
    check_finite("training_gaps", training_gaps)
    if training_gaps.shape != (len(training),):
        raise ValueError(
            f"training_gaps must have the shape ({len(training)},), but it is {tuple(training_gaps.shape)}."
        )
    distances, indices = nearest_distances(samples, training, 1)
    return float((distances[:, 0] > training_gaps[indices[:, 0]]).double().mean())
