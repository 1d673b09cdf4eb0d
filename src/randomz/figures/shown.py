"""What there is to show: everything that the stages before the report wrote."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from randomz.claims import Estimate, Tree
from randomz.figures.style import COLOURS, MARKERS, Mark

RANDOM = {"ae": "standard_normal", "vae": "standard_normal", "vqvae": "uniform"}
ORACLE = "posterior"  # codes of test images: what a perfect prior would reach, and so no prior

History = Mapping[str, Float[np.ndarray, " rows"]]  # a column by its name
Pictures = Mapping[str, Tensor]


@dataclass(frozen=True)
class Study:
    """What there is to show. Models stand in the order of params.yaml, in every mapping.

    `metrics` is the tree of reports/metrics.json; `histories` has the columns of a model's history.csv; `pictures` has
    a model's pictures of each seed, in the order of the seeds; `controls` the images of the control sets; `sizes` says
    of how many numbers a model's latent is.
    """

    metrics: Tree
    histories: Mapping[str, History]
    pictures: Mapping[str, Sequence[Pictures]]
    controls: Mapping[str, UInt8[Tensor, "N 28 28"]]
    sizes: Mapping[str, int]

    @property
    def models(self) -> Tree:
        """The metrics of each model."""
        models: Tree = self.metrics["models"]
        return models

    def of_kind(self, kind: str) -> list[str]:
        """The names of the models of a kind."""
        return [name for name, tree in self.models.items() if tree["kind"] == kind]

    def mark(self, model: str) -> Mark:
        """The colour and the marker of a model."""
        place = list(self.models).index(model)
        return Mark(COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)])

    def colour(self, model: str) -> str:
        """The colour of a model."""
        return self.mark(model).colour

    def quality(self, model: str, sampler: str, metric: str) -> Estimate:
        """A sample-quality figure."""
        return Estimate.from_json(self.models[model]["sampling"][sampler][metric])

    def best_fitted(self, model: str) -> str:
        """Of a model's samplers that are fitted to training codes, the one with the lowest FD ratio."""
        return best_fitted(self.models[model])


def best_fitted(tree: Tree) -> str:
    """The same of a model's metrics."""
    fitted: set[str] = set(tree["sampling"]) - {RANDOM[tree["kind"]], ORACLE}
    ratios = {sampler: float(tree["sampling"][sampler]["fd_ratio"]["mean"]) for sampler in sorted(fitted)}
    return min(ratios, key=ratios.__getitem__)
