"""Stage `yardstick`: reference features, the floor, and what the controls get."""

import sys
from pathlib import Path

from randomz.batches import load_split
from randomz.checkpoint import save_tensors
from randomz.devices import choose_device
from randomz.files import write_json
from randomz.judge import accuracy, load_judge
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
    judge = load_judge(Path("judge/judge.safetensors"), device)
    ruler = build_yardstick(judge, train, validation, test, config)
    ruler.save(Path("artifacts/yardstick.safetensors"))
    save_tensors(Path("artifacts/controls.safetensors"), control_pictures(train, config))
    floor = measure_floor(ruler, judge, train, validation, config)
    controls = measure_controls(ruler, judge, train, config)
    tree = {"judge": {"test_accuracy": accuracy(judge, test)}, "floor": floor, "controls": controls}
    write_json(Path("reports/yardstick.json"), tree)


if __name__ == "__main__":
    sys.exit(run_stage("yardstick", yardstick))
