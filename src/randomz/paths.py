"""How a decoded image changes along a path between the codes of two images, in equal steps.

Where a latent is smooth the image changes evenly; where it is not, it stands still and then jumps. The length of the
path of images, over the distance of its ends, says what it adds to a cross-fade (the path length of Karras et al. 2019,
arXiv:1812.04948, taken over whole paths and in pixels).

P pairs, S steps.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from randomz.models.base import LatentModel
from randomz.trained import decode_all

STEPS = 10


@dataclass(frozen=True)
class Paths:
    """Of each pair: `change` is |x_t+1 - x_t|_2 of each step, `direct` |x_S - x_0|_2, for pixels in [0, 1]."""

    change: Float[Tensor, "P S"]
    direct: Float[Tensor, " P"]

    @property
    def ratio(self) -> float:
        """Length of a path over the distance of its ends, mean over pairs: 1 for a straight cross-fade, never less.

        0, which no path has, where all images are the same. Such pairs are left out of both figures.
        """
        return self._mean_of_moving(self.change.double().sum(1) / self.direct)

    @property
    def largest_step(self) -> float:
        """Largest change of a step over the length of the path, mean over pairs: 1/S when even, 1 for a single jump.

        0, which no path has, where all images are the same.
        """
        return self._mean_of_moving(self.change.double().amax(1) / self.change.double().sum(1))

    def _mean_of_moving(self, figures: Float[Tensor, " P"]) -> float:
        moving = self.direct > 0
        return float(figures[moving].mean()) if bool(moving.any()) else 0.0


def walk(model: LatentModel, starts: Tensor, ends: Tensor) -> Paths:
    """Decode `STEPS` equal steps, by the model's own `between`, from each code of `starts` to that of `ends`."""
    first = before = decode_all(model, starts)
    changes = []
    for step in range(1, STEPS + 1):
        image = decode_all(model, model.between(starts, ends, step / STEPS))
        changes.append(_distance(image, before))
        before = image
    return Paths(torch.stack(changes, 1), _distance(before, first))


def _distance(a: Float[Tensor, "P 1 28 28"], b: Float[Tensor, "P 1 28 28"]) -> Float[Tensor, " P"]:
    norms: Tensor = torch.linalg.vector_norm((a - b).flatten(1), dim=1)
    return norms
