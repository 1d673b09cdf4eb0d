"""Trained decoders and a few codes as text that a browser can evaluate.

A weight matrix is kept as whole numbers from -127 to 127 with one scale a row (symmetric int8 quantisation): a quarter
of the bytes, and a decoded pixel within a grey level or two of what the model itself gives.

Axes: d numbers of z, K codebook entries, N stored codes.
"""

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int8
from torch import Tensor

from randomz.checkpoint import load_tensors
from randomz.figures import ORACLE, RANDOM, Study
from randomz.params import Params

Tree = dict[str, Any]
LAYER = re.compile(r"decoder\.stack\.(\d+)\.weight")
KEPT = 64  # codes a sampler; those of the images on the page
DIRECTIONS = 4  # principal directions that the plane may lie along
ORIGINALS = 20


def explorer(study: Study, params: Params, artifacts: Path) -> Tree:
    """What the page's explorer needs of every model, of the first seed.

    Raises ValueError that names the file which holds no decoder.
    """
    seed = params.seeds[0]
    models = {}
    for name in study.models:
        weights = artifacts / name / "weights" / f"seed-{seed}.safetensors"
        models[name] = _model(study, name, load_tensors(weights), weights)
    originals = next(iter(study.pictures.values()))[0]["originals"][:ORIGINALS]
    return {"models": models, "originals": packed(originals.numpy()), "seed": seed}


def _model(study: Study, name: str, weights: Mapping[str, Tensor], path: Path) -> Tree:
    kind, pictures = study.models[name]["kind"], study.pictures[name][0]
    codes = {key.removeprefix("codes."): of[:KEPT].numpy() for key, of in pictures.items() if key.startswith("codes.")}
    codes = {sampler: codes[sampler] for sampler in study.models[name]["sampling"] if sampler in codes}
    layers = layers_of(weights, path)
    tree = {"kind": kind, "layers": layers, "random": RANDOM[kind], "best": study.best_fitted(name)}
    if "quantiser.codebook" in weights:
        codebook = weights["quantiser.codebook"].numpy()
        kept = {sampler: packed(of.astype(np.uint16)) for sampler, of in codes.items()}
        return tree | {"codebook": packed(codebook), "entries": len(codebook), "codes": kept}
    kept = {sampler: packed(of.astype(np.float32)) for sampler, of in codes.items()}
    return tree | _plane(codes.get(ORACLE), layers[0]["columns"]) | {"codes": kept}


def layers_of(weights: Mapping[str, Tensor], path: Path) -> list[Tree]:
    """The linear layers of a decoder in their order; SiLU between them and z beside it where a layer has room."""
    places = sorted(int(found[1]) for key in weights if (found := LAYER.fullmatch(key)))
    if not places:
        raise ValueError(
            f"{path}: has no tensor decoder.stack.<place>.weight; the weights of a trained model are accepted"
        )
    return [
        _layer(*(weights[f"decoder.stack.{place}.{part}"].numpy() for part in ("weight", "bias"))) for place in places
    ]


def _layer(weight: Float[np.ndarray, "rows columns"], bias: Float[np.ndarray, " rows"]) -> Tree:
    whole, scale = quantise(weight)
    rows, columns = weight.shape
    return {"rows": rows, "columns": columns, "weight": packed(whole), "scale": packed(scale), "bias": packed(bias)}


def quantise(
    weight: Float[np.ndarray, "rows columns"],
) -> tuple[Int8[np.ndarray, "rows columns"], Float[np.ndarray, " rows"]]:
    """Whole numbers and the scale of each row, whose product is the weight to half a scale."""
    scale = np.maximum(np.abs(weight).max(1), np.finfo(np.float32).tiny) / 127
    return np.rint(weight / scale[:, None]).astype(np.int8), scale.astype(np.float32)


def _plane(codes: Float[np.ndarray, "N d"] | None, dimensions: int) -> Tree:
    """Where the codes of test images lie: mean, deviation, and the directions in which they vary most."""
    if codes is None:
        return {"mean": [0.0] * dimensions, "deviation": [1.0] * dimensions, "directions": []}
    mean = codes.mean(0, dtype=np.float64)
    _, _, directions = np.linalg.svd(codes - mean, full_matrices=False)
    largest = np.abs(directions).argmax(1)
    # A direction and its opposite are the same; the one whose largest number is positive is taken.
    directions *= np.sign(directions[np.arange(len(directions)), largest])[:, None]
    return {
        "mean": _rounded(mean),
        "deviation": _rounded(codes.std(0, dtype=np.float64)),
        "directions": [_rounded(direction) for direction in directions[:DIRECTIONS]],
    }


def _rounded(values: np.ndarray) -> list[float]:
    """To five decimals, below which linear algebra differs from machine to machine."""
    return [round(float(value), 5) for value in values]


def packed(array: np.ndarray) -> str:
    """The bytes of an array, the lowest of each number first, as base64."""
    return base64.b64encode(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()).decode()
