"""What codes say of classes, and what lies between them: probes, midpoints and paths, for every kind of latent.

Probes are scikit-learn's, fitted to codes of training images and asked of those of reference images (Alain & Bengio
2016, arXiv:1610.01644).
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from randomz.models.base import LatentModel
from randomz.paths import Paths, walk
from randomz.ruler import Ruler, Tree
from randomz.seeding import generator
from randomz.trained import decode_all, encode_all

PATHS = 2000  # pairs of images between which paths are followed


def latent_section(model: LatentModel, codes: Tensor, ruler: Ruler, seed: int) -> tuple[Tree, Paths]:
    """Figures of the codes of all reference images, and the paths between the first of them and others."""
    others = codes[_partners(len(codes), seed).to(codes.device)]
    paths = walk(model, codes[:PATHS], others[:PATHS])
    tree = _probes(model, codes, ruler, seed) | _midpoints(model, codes, others, ruler)
    return tree | {"path_ratio": paths.ratio, "largest_step": paths.largest_step}, paths


def _partners(count: int, seed: int) -> Int64[Tensor, " N"]:
    return torch.randperm(count, generator=generator("interpolation", seed))


@torch.no_grad()
def _midpoints(model: LatentModel, codes: Tensor, others: Tensor, ruler: Ruler) -> Tree:
    images = decode_all(model, model.between(codes, others, 0.5))
    distance, rate = ruler.yardstick.distance_and_digit_rate(ruler.judge, images)
    return {"fd_interpolation": distance, "digit_rate_interpolation": rate}


def _probes(model: LatentModel, codes: Tensor, ruler: Ruler, seed: int) -> Tree:
    chosen = torch.randperm(len(ruler.train), generator=generator("probe", seed))[: ruler.config.probe_images]
    chosen = chosen.to(ruler.train.images.device)
    known = model.embed(encode_all(model, ruler.train.images[chosen], None)).cpu().numpy()
    asked = model.embed(codes).cpu().numpy()
    known_labels, labels = ruler.train.labels[chosen], ruler.reference.labels
    probes = {"knn_accuracy": KNeighborsClassifier(), "linear_accuracy": LogisticRegression(max_iter=300)}
    return {name: probe_accuracy(probe, known, known_labels, asked, labels) for name, probe in probes.items()}


def probe_accuracy(probe: Any, known: np.ndarray, known_labels: Tensor, asked: np.ndarray, labels: Tensor) -> float:  # noqa: ANN401
    """Share of `asked` whose label a classifier gives that has learnt `known`, standardised."""
    fitted = make_pipeline(StandardScaler(), probe).fit(known, known_labels.cpu().numpy())
    return float(fitted.score(asked, labels.cpu().numpy()))
