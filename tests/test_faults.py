import math
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from randomz.faults import Held, find_faults
from randomz.records import Record

RECORD = Record(
    name="vae-seed-0",
    tags={"fingerprint": "f", "seed": "0"},
    metrics={"fd": 1.5, "undefined": math.nan},
    files={},
    params={"train.epochs": "2"},
    curves={"train_total": {1: 3.0, 2: 2.0}},
    dataset="d",
)
HELD = Held(
    finished=True,
    tags={"fingerprint": "f", "seed": "0", "status": "current"},
    params={"train.epochs": "2"},
    metrics={"fd": 1.5, "undefined": math.nan, "train_total": 2.0},
    curves={"train_total": [(1, 3.0), (2, 2.0)]},
    datasets=["d"],
    artifacts={},
    models=0,
    steps={},
)


def test_a_run_that_holds_its_record_has_no_faults():
    assert find_faults(HELD, RECORD) == []


@pytest.mark.parametrize(
    ("change", "faults"),
    [
        ({"tags": {}, "params": {}}, ["stale: its fingerprint is None, dvc.lock gives f"]),
        ({"finished": False, "params": {}}, ["unfinished: its status is not FINISHED"]),
        ({"params": {}}, ["param train.epochs is missing; the files say 2"]),
        ({"tags": {"fingerprint": "f"}}, ["tag seed is missing; the files say 0"]),
        (
            {"metrics": {"fd": math.nan, "undefined": math.nan, "train_total": 2.0}},
            ["metric fd is nan; the files say 1.5"],
        ),
        (
            {"curves": {"train_total": [(1, 3.0), (2, 2.5)]}},
            ["curve train_total has 1 of 2 points right, and 1 others"],
        ),
        (
            {"curves": {"train_total": [(1, 3.0), (2, 2.0), (2, 2.0)]}},
            ["curve train_total has 2 of 2 points right, and 1 others"],
        ),
        ({"datasets": ["d", "d"]}, ["dataset digests are ['d', 'd']; dvc.lock says ['d']"]),
        ({"metrics": dict(HELD.metrics) | {"system/cpu_utilization_percentage": 50.0}}, []),
        ({"models": 1}, ["models that can be loaded: 1; 0 is right"]),
    ],
)
def test_a_fault_is_one_line(change, faults):
    assert find_faults(replace(HELD, **change), RECORD) == faults


@pytest.mark.parametrize("steps", [{}, {"samples": [1, 4]}, {"samples": [1, 2, 2, 4]}, {"reconstructions": [1, 2, 4]}])
def test_pictures_of_other_epochs_are_a_fault(tmp_path, steps):
    snapshots = tmp_path / "seed-0.safetensors"
    save_file({"epochs": np.array([1, 2, 4])}, snapshots)
    record = replace(RECORD, snapshots=snapshots)
    right = {"reconstructions": [1, 2, 4], "samples": [4, 1, 2]}
    assert find_faults(replace(HELD, steps=right), record) == []
    faults = find_faults(replace(HELD, steps=right | {"samples": []} | steps), record)
    assert faults == [f"picture samples has epochs {steps.get('samples', [])}; the file has [1, 2, 4]"]
