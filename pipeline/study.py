"""Stage `study`: what the metrics say of real images and of failures of rising strength."""

import sys
from pathlib import Path

from randomz.batches import load_split
from randomz.devices import choose_device
from randomz.files import write_json
from randomz.judge import load_judge
from randomz.params import load_params
from randomz.stage import run_stage
from randomz.study import Study
from randomz.yardstick import load_yardstick


def study() -> None:
    """Measure the metrics themselves."""
    params = load_params()
    device = choose_device()
    # Of the two splits that nothing is trained on, the one that images are not held against.
    held_out = "test" if params.yardstick.reference == "validation" else "validation"
    subject = Study(
        yardstick=load_yardstick(Path("artifacts/yardstick.safetensors"), device),
        judge=load_judge(Path("judge/judge.safetensors"), device),
        train=load_split(Path("data/train.safetensors"), device),
        held_out=load_split(Path(f"data/{held_out}.safetensors"), device),
        config=params.study,
    )
    write_json(Path("reports/study.json"), subject.measure())


if __name__ == "__main__":
    sys.exit(run_stage("study", study))
