"""Params and images for tests: small, made from seeds, and nobody's choice but the tests'."""

import json
import math
from functools import cache
from pathlib import Path

import torch
from ruamel.yaml import YAML

from randomz.batches import Split
from randomz.judge import fit_judge
from randomz.models import load_kind
from randomz.params import Params
from randomz.seeding import generator
from randomz.trainer import build_seeded
from randomz.yardstick import build_yardstick

SHIPPED = Path(__file__).parents[1] / "params.yaml"
AE = {"kind": "ae", "likelihood": "bernoulli", "sigma": None, "dimensions": 3}
VAE = {"kind": "vae", "likelihood": "bernoulli", "sigma": None, "dimensions": 3, "beta": 1.0}
VQVAE = {
    "kind": "vqvae", "likelihood": "bernoulli", "sigma": None, "grid": 2, "codes": 6, "dimensions": 4, "beta": 0.25,
    "codebook": "ema", "decay": 0.9, "start": "kmeans", "restart": 1.0,
}  # fmt: skip
DENSITY = {
    "gmm": {"codes": 5000, "components": [2, 3], "iterations": 50, "shrinkage": 0.0},
    "flow": {"transforms": 2, "width": 8, "epochs": 2, "batch_size": 50, "learning_rate": 1e-2},
}
TINY = {
    "seeds": [0, 1],
    "prepare": {"validation": 1000, "seed": 0},
    "judge": {
        "epochs": 2, "batch_size": 20, "learning_rate": 3e-3, "weight_decay": 1e-2, "shift": 0.05, "rotation": 5.0,
        "seed": 0,
    },
    "yardstick": {"reference": "test", "samples": 500, "neighbours": 5, "accept": 0.95, "seed": 0},
    "study": {"samples": 500, "seed": 0},
    "network": {"width": 16, "encoder_depth": 2, "decoder_depth": 2, "precision": "float32"},
    "train": {
        "epochs": 2, "batch_size": 10, "learning_rate": 5e-3, "weight_decay": 1e-4, "warmup": 0.1, "binarise": False,
    },
    "models": {"ae": AE, "vae": VAE, "vqvae": VQVAE},
    "prior": {
        "ae": DENSITY,
        "vae": DENSITY,
        "vqvae": {
            "clusters": 4, "units": 8, "embedding": 4, "depth": 2, "epochs": 2, "batch_size": 25, "learning_rate": 1e-2,
            "weight_decay": 0.05, "dropout": 0.1,
        },
    },
    "evaluate": {"samples": 500, "bound_images": 20, "probe_images": 200},
    "publish": {"experiment": "tests"},
}  # fmt: skip


def tiny_tree(**changes):
    """The shipped params.yaml with every value that a test could see replaced by `TINY`, then by `changes`.

    Mappings are changed key by key; None takes a key away. Only the model entries that `TINY` or `changes` name stay.
    """
    tree = json.loads(_shipped())
    named = {*TINY["models"], *changes.get("models", {})}
    tree["models"] = {name: entry for name, entry in tree["models"].items() if name in named}
    return _changed(_changed(tree, TINY), changes)


def tiny_params(**changes):
    """`tiny_tree` as validated params."""
    return Params.model_validate_json(json.dumps(tiny_tree(**changes)))


@cache
def _shipped():
    return json.dumps(YAML(typ="safe", pure=True).load(SHIPPED.read_text(encoding="utf-8")))


def _changed(old, new):
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    merged = old | {key: _changed(old.get(key, {}), value) for key, value in new.items()}
    return {key: value for key, value in merged.items() if value is not None}


def blobs(count, key):
    """Images that a class can be told from: a bright spot whose place on a circle is its class, and no two alike."""
    draws = torch.rand(4, count, generator=generator("blobs", key), dtype=torch.float64)
    labels = torch.arange(count) % 10
    angle = labels * (2 * math.pi / 10)
    row = 13.5 + 8 * angle.sin() + 4 * (draws[0] - 0.5)
    column = 13.5 + 8 * angle.cos() + 4 * (draws[1] - 0.5)
    width, peak = 2.5 + draws[2], 155 + 100 * draws[3]
    place = torch.arange(28, dtype=torch.float64)
    squares = (place[:, None] - row[:, None, None]) ** 2 + (place - column[:, None, None]) ** 2
    images = peak[:, None, None] * torch.exp(-squares / (2 * width**2)[:, None, None])
    return Split(images.round().to(torch.uint8), labels)


def tiny_model(name, seed=0, **changes):
    """An untrained model of `tiny_params` with these keys of its entry changed, and the loss of its kind."""
    params = tiny_params(models={name: changes})
    config = params.model(name)
    kind = load_kind(config.kind)
    return build_seeded(lambda: kind.build(config, params.network), seed), kind.loss


TRAIN, VALIDATION, TEST = (1000, 10), (300, 11), (500, 12)  # `blobs` of each split that is measured


def tiny_judge():
    """A judge trained on blobs for two epochs."""
    config = tiny_params(judge={"batch_size": 50}).judge
    return fit_judge(blobs(*TRAIN), blobs(*VALIDATION), config, lambda _: None)


def tiny_yardstick(judge):
    """The yardstick of three splits of blobs."""
    return build_yardstick(judge, blobs(*TRAIN), blobs(*VALIDATION), blobs(*TEST), tiny_params().yardstick)


def gradients(model, term):
    """The parts of a model (encoder, decoder, ...) that the mean of a loss term has a gradient for."""
    found = torch.autograd.grad(term.mean(), list(model.parameters()), allow_unused=True)
    names = [name for name, _ in model.named_parameters()]
    return {
        name.partition(".")[0]
        for name, gradient in zip(names, found, strict=True)
        if gradient is not None and bool(gradient.ne(0).any())
    }


def assert_every_parameter_learns(model, total):
    """Every single parameter tensor gets a gradient that is finite and not zero everywhere."""
    model.zero_grad()
    total.mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        assert bool(parameter.grad.ne(0).any()), name
