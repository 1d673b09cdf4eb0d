"""A small finished pipeline in a folder: the files that the stages write, and the dvc.lock that goes with them."""

import csv
import json
from pathlib import Path

import numpy as np
import torch
from ruamel.yaml import YAML
from safetensors.numpy import save_file

from randomz.checkpoint import save_tensors
from randomz.fingerprint import md5
from randomz.models import load_kind
from randomz.params import load_params
from randomz.priors import build_priors, priors_state
from randomz.seeding import generator
from randomz.snapshots import Snapshots

SEEDS = (0, 1)
EPOCHS = 3
DATASET_MD5 = "0123456789abcdef0123456789abcdef"
MODELS = {
    "vae": {"kind": "vae", "likelihood": "bernoulli", "dimensions": 4, "beta": 1.0},
    "vq-small": {
        "kind": "vqvae",
        "likelihood": "bernoulli",
        "grid": 2,
        "codes": 8,
        "dimensions": 3,
        "beta": 0.25,
        "codebook": "ema",
        "decay": 0.99,
        "start": "kmeans",
        "restart": 1.0,
    },
}
SAMPLERS = {
    "vae": ("standard_normal", "gaussian", "gmm", "posterior"),
    "vqvae": ("uniform", "position", "autoregressive", "posterior"),
}


def over_seeds(*values):
    return {"mean": sum(values) / len(values), "low": None, "high": None, "per_seed": list(values)}


def build(root: Path, *names: str) -> Path:
    """Write everything below `root`, for these of MODELS."""
    write_params(root, models={name: MODELS[name] for name in names})
    for name in names:
        write_tensors(root, name)
        write_curves(root, name)
        write_metrics(root, name)
    finish(root)
    return root


def finish(root: Path) -> None:
    """What follows from the files of the models: the report and dvc.lock."""
    names = list(load_params(root / "params.yaml").models)
    write_report(root, names)
    write_lock(root, names)


def write_params(root: Path, **changed) -> None:
    yaml = YAML(typ="safe", pure=True)
    values = yaml.load((Path(__file__).parent.parent / "params.yaml").read_text())
    values |= {"seeds": list(SEEDS), **changed}
    values["network"] |= {"width": 8, "encoder_depth": 1, "decoder_depth": 1}
    values["train"]["epochs"] = 20
    root.mkdir(parents=True, exist_ok=True)
    with (root / "params.yaml").open("w") as file:
        yaml.dump(values, file)


def write_tensors(root: Path, name: str) -> None:
    params = load_params(root / "params.yaml")
    random = np.random.default_rng(0)
    for seed in SEEDS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = load_kind(params.models[name].kind).build(params.models[name], params.network)
        save_tensors(root / f"artifacts/{name}/weights/seed-{seed}.safetensors", model.state_dict())
        priors = priors_state(build_priors(params, name, model, seed))
        save_tensors(root / f"artifacts/{name}/priors/seed-{seed}.safetensors", priors)
        write_snapshots(root, name, seed, model)
        counts = {"originals": (20,), "reconstructions": (20,), "interpolation": (6, 11)}
        counts |= {f"samples.{sampler}": (100,) for sampler in SAMPLERS[MODELS[name]["kind"]]}
        shapes = {key: (*count, 28, 28) for key, count in counts.items()}
        path = root / f"artifacts/{name}/pictures/seed-{seed}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: speckle(random, shape) for key, shape in shapes.items()}, path)


def write_snapshots(root: Path, name: str, seed: int, model) -> None:
    images = torch.randint(256, (30, 28, 28), generator=generator("mirrored"), dtype=torch.uint8)
    snapshots = Snapshots(root / f"scratch/{name}-{seed}", EPOCHS)
    for epoch in range(1, EPOCHS + 1):
        snapshots.take(model, images, epoch)
    save_tensors(root / f"artifacts/{name}/snapshots/seed-{seed}.safetensors", snapshots.collect(images))


def speckle(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Images with some grey pixels on black."""
    return random.integers(0, 256, shape, np.uint8) * (random.random(shape) > 0.97)


def write_curves(root: Path, name: str) -> None:
    kind = MODELS[name]["kind"]
    terms = ["total", "reconstruction"] + (["kl"] if kind == "vae" else ["codebook", "commitment"])
    columns = [f"{split}_{term}" for split in ("train", "validation") for term in terms]
    rows = [
        {"seed": seed, "epoch": epoch, "learning_rate": 1e-3 / epoch}
        | {column: 100 / epoch + seed + place / 3 for place, column in enumerate(columns)}
        for seed in SEEDS
        for epoch in range(1, EPOCHS + 1)
    ]
    write_csv(root / f"reports/{name}/history.csv", rows)
    prior = [{"seed": seed, "prior": "gaussian", "epoch": 0, "validation_nats": 9.5 + seed} for seed in SEEDS]
    prior += [{"seed": 0, "prior": "gmm", "epoch": 0, "validation_nats": 8.25}]
    write_csv(root / f"reports/{name}/prior.csv", prior)


def write_csv(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def write_metrics(root: Path, name: str, *, shift: float = 0.0) -> None:
    kind = MODELS[name]["kind"]
    scores = {"fd": over_seeds(20.0 + shift, 30.0), "fd_ratio": over_seeds(10.0 + shift, 15.0)}
    tree = {
        "kind": kind,
        "parameters": 1234,
        "reconstruction": {"mse": over_seeds(0.1 + shift, 1 / 3), "pca_mse": 0.02},
        "sampling": dict.fromkeys(SAMPLERS[kind], scores),
    }
    if kind == "vae":
        tree["kl"] = {"kl_nats": over_seeds(20.5, 21.5), "bound": {"1": over_seeds(-99.0, -98.0)}}
    (root / f"reports/{name}/metrics.json").write_text(json.dumps(tree))


def write_report(root: Path, names: list[str]) -> None:
    models = {name: json.loads((root / f"reports/{name}/metrics.json").read_text()) for name in names}
    (root / "reports/metrics.json").write_text(json.dumps({"models": models, "claims": []}))
    (root / "reports/report.md").write_text("# Report\n")
    (root / "reports/figures").mkdir(exist_ok=True)
    (root / "reports/figures/samples.png").write_bytes(b"not really a picture")


def write_lock(root: Path, names: list[str]) -> None:
    stages = {
        "prepare": {"outs": [{"path": "data/train.safetensors", "hash": "md5", "md5": DATASET_MD5, "size": 1}]},
        "yardstick": {"outs": [{"path": "reports/yardstick.json", "hash": "md5", "md5": "f" * 32, "size": 1}]},
        "report": {"outs": outs(root, "reports/metrics.json", "reports/report.md", "reports/figures")},
    }
    values = YAML(typ="safe", pure=True).load((root / "params.yaml").read_text())
    for name in names:
        reports, artifacts = f"reports/{name}", f"artifacts/{name}"
        stages[f"train@{name}"] = {
            "deps": [{"path": "data/train.safetensors", "hash": "md5", "md5": DATASET_MD5, "size": 1}],
            "params": {
                "params.yaml": {
                    f"models.{name}": values["models"][name],
                    "train": values["train"],
                    "train.epochs": values["train"]["epochs"],
                }
            },
            "outs": outs(root, f"{artifacts}/weights", f"{artifacts}/snapshots", f"{reports}/history.csv"),
        }
        stages[f"prior@{name}"] = {"outs": outs(root, f"{artifacts}/priors", f"{reports}/prior.csv")}
        stages[f"evaluate@{name}"] = {"outs": outs(root, f"{artifacts}/pictures", f"{reports}/metrics.json")}
    for name, stage in stages.items():
        stage["cmd"] = f"python -m pipeline.{name.partition('@')[0]}"
    with (root / "dvc.lock").open("w") as file:
        YAML(typ="safe", pure=True).dump({"schema": "2.0", "stages": stages}, file)


def outs(root: Path, *paths: str) -> list[dict]:
    return [{"path": path, "hash": "md5", "md5": md5(root / path), "size": 1} for path in paths]
