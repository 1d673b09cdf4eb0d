"""A workspace with the real stages and real digits, small enough to run in a test."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from ruamel.yaml import YAML
from sklearn.datasets import load_digits
from torch.nn import functional

from randomz.checkpoint import save_tensors

ROOT = Path(__file__).parents[2]
COPIED = ("pipeline", "src", "dvc.yaml", "params.yaml", ".gitignore")
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "RANDOMZ_DEVICE": "cpu",
    "OMP_NUM_THREADS": "1",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_CONFIG_GLOBAL": os.devnull,
}
for inherited in ("MLFLOW_TRACKING_URI", "DVC_ROOT"):
    ENVIRONMENT.pop(inherited, None)
TINY = {
    "seeds": [0, 1],
    "judge.epochs": 2,
    "judge.batch_size": 50,
    "yardstick.samples": 500,
    "study.samples": 500,
    "network.width": 32,
    "train.epochs": 2,
    "train.batch_size": 50,
    "models.ae.dimensions": 4,
    "models.vae.dimensions": 4,
    "models.vqvae.grid": 2,
    "models.vqvae.codes": 8,
    "prior.ae.gmm.codes": 500,
    "prior.ae.gmm.components": [2],
    "prior.ae.flow.transforms": 1,
    "prior.ae.flow.width": 16,
    "prior.ae.flow.epochs": 1,
    "prior.vae.gmm.codes": 500,
    "prior.vae.gmm.components": [2],
    "prior.vae.flow.transforms": 1,
    "prior.vae.flow.width": 16,
    "prior.vae.flow.epochs": 1,
    "prior.vqvae.clusters": 2,
    "prior.vqvae.units": 16,
    "prior.vqvae.embedding": 4,
    "prior.vqvae.epochs": 1,
    "prior.vqvae.batch_size": 50,
    "evaluate.samples": 500,
    "evaluate.bound_images": 10,
    "evaluate.probe_images": 200,
}


def without_mlflow(folder):
    "An environment in which training cannot log live, for tests of something else: MLflow takes seconds to start."
    (folder / "mlflow.py").write_text("raise ImportError('not in this test')\n")
    return ENVIRONMENT | {"PYTHONPATH": str(folder)}


def run(workspace, *command, check=True, environment=ENVIRONMENT):
    done = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done


def edit_params(workspace, changes):
    "Set dotted keys of params.yaml; None takes a key away."
    yaml = YAML()
    path = workspace / "params.yaml"
    params = yaml.load(path)
    for key, value in changes.items():
        *sections, last = key.split(".")
        node = params
        for section in sections:
            node = node[section]
        node[last] = value
        if value is None:
            del node[last]
    yaml.dump(params, path)


def write_digits(folder):
    "scikit-learn's real 8 x 8 digits, enlarged: 1,200 for training, 200 for validation, 397 for the test."
    digits = load_digits()
    small = torch.from_numpy(digits.images).float()[:, None] / 16
    images = (functional.interpolate(small, size=28, mode="bilinear") * 255).round().to(torch.uint8)[:, 0]
    labels = torch.from_numpy(digits.target).to(torch.uint8)
    for name, first, last in (("train", 0, 1200), ("validation", 1200, 1400), ("test", 1400, 1797)):
        index = torch.arange(first, last, dtype=torch.int32)
        part = {"images": images[first:last], "labels": labels[first:last], "index": index}
        save_tensors(folder / f"{name}.safetensors", part)


def make_workspace(workspace):
    workspace.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, workspace / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, workspace / name)
    edit_params(workspace, TINY)
    write_digits(workspace / "data")
    (workspace / "reports/experiments").mkdir(parents=True)
    (workspace / "reports/experiments/.gitkeep").touch()
    run(workspace, "git", "init", "--quiet", "--initial-branch", "main")
    run(workspace, "git", "config", "user.name", "tester")
    run(workspace, "git", "config", "user.email", "tester@localhost")
    run(workspace, "dvc", "init", "--quiet")
    # The data are given: `prepare` is taken as done with what stands there.
    run(workspace, "dvc", "commit", "--force", "prepare")
    run(workspace, "git", "add", ".")
    run(workspace, "git", "commit", "--quiet", "-m", "start")
