"""Stage `judge`: train the classifier that is the yardstick, and pin it as judge/judge.safetensors."""

import sys
from pathlib import Path

from randomz.batches import load_split
from randomz.checkpoint import save_tensors
from randomz.devices import choose_device
from randomz.judge import accuracy, fit_judge
from randomz.params import load_params
from randomz.progress import progress
from randomz.stage import run_stage

JUDGE = Path("judge/judge.safetensors")


def judge() -> None:
    """Train the judge and say how it does on validation images; the test images are not touched here."""
    config = load_params().judge
    device = choose_device()
    train = load_split(Path("data/train.safetensors"), device)
    validation = load_split(Path("data/validation.safetensors"), device)
    with progress("judge", config.epochs, "epoch") as bar:
        fitted = fit_judge(train, validation, config, bar.advance)
    save_tensors(JUDGE, fitted.state_dict())
    print(f"{JUDGE}: validation accuracy {accuracy(fitted, validation):.4f}")


if __name__ == "__main__":
    sys.exit(run_stage("judge", judge))
