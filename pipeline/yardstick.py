"""Stage `yardstick`: reference features, the floor, what the controls get, and lines that linear methods draw."""

import sys
from pathlib import Path

from randomz.batches import load_split
from randomz.checkpoint import save_tensors
from randomz.devices import choose_device
from randomz.files import write_json
from randomz.judge import accuracy, load_judge
from randomz.linear import gaussian_rate_reference, pca_reference, principal
from randomz.params import load_params
from randomz.stage import run_stage
from randomz.yardstick import build_yardstick, control_pictures, measure_controls, measure_floor


def yardstick() -> None:
    """Build the yardstick and measure what it says of real digits and of deliberate failures."""
    config = load_params().yardstick
    device = choose_device()
    train = load_split(Path("data/train.safetensors"), device)
    validation = load_split(Path("data/validation.safetensors"), device)
    test = load_split(Path("data/test.safetensors"), device)
    reference = load_split(Path(f"data/{config.reference}.safetensors"), device)
    judge = load_judge(Path("judge/judge.safetensors"), device)
    ruler = build_yardstick(judge, train, validation, reference, config)
    ruler.save(Path("artifacts/yardstick.safetensors"))
    save_tensors(Path("artifacts/controls.safetensors"), control_pictures(train, config))
    linear = principal(train.images)
    tree = {
        "judge": {"test_accuracy": accuracy(judge, test)},
        "floor": measure_floor(ruler, judge, train, validation, config),
        "controls": measure_controls(ruler, judge, train, config),
        "pca": pca_reference(linear, reference),
        "gaussian_rate": gaussian_rate_reference(linear),
    }
    write_json(Path("reports/yardstick.json"), tree)


if __name__ == "__main__":
    sys.exit(run_stage("yardstick", yardstick))
