import json
import os
import sys
from pathlib import Path

import pytest
import torch
from synthetic import tiny_params

from benchmarks import stages
from benchmarks.stages import arithmetic, main, stage_seconds


def test_a_stage_lasts_until_the_next_one_starts():
    lines = [
        "uv sync",
        ".venv/bin/python -m randomz.params",
        ".venv/bin/python -m dvc repro",
        "Stage 'x' didn't change",
        "Running stage 'a':",
        "> python -m pipeline.a",
        "",
        "Running stage 'b@c':",
        "> python -m pipeline.publish",
        ".venv/bin/python -m pipeline.publish",
        "end",
    ]
    now = [0.0]

    def printed():
        for line in lines:
            now[0] += 1.0
            yield line + "\n"
        now[0] += 10.0

    assert stage_seconds(printed(), lambda: now[0]) == {
        stages.BEFORE: 3.0,
        "what DVC does before": 2.0,
        "a": 3.0,
        "b@c": 2.0,
        "publish by the Makefile": 11.0,
    }


def test_operations_follow_from_the_params():
    base = arithmetic(tiny_params())
    assert set(base) == {"judge"} | {
        f"{stage}@{m}" for stage in ("train", "prior", "evaluate") for m in ("ae", "vae", "vqvae")
    }
    twice = arithmetic(tiny_params(train={"epochs": 2 * tiny_params().train.epochs}, seeds=[0, 1, 2, 3]))
    assert twice["train@vae"] == pytest.approx(4 * base["train@vae"])
    assert twice["prior@vqvae"] == pytest.approx(2 * base["prior@vqvae"])
    assert twice["judge"] == base["judge"]
    wider = arithmetic(tiny_params(network={"width": 64}))
    assert wider["train@ae"] > 3 * base["train@ae"]
    assert wider["evaluate@vae"] - base["evaluate@vae"] > wider["evaluate@ae"] - base["evaluate@ae"]  # its bounds


def test_the_table_holds_time_and_arithmetic_and_is_printed_from_the_file(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("RANDOMZ_DEVICE", "cpu")
    monkeypatch.setattr(stages, "load_params", tiny_params)
    monkeypatch.setattr(stages, "measure_rates", lambda _: {"float32": 1e9, "bfloat16": 5e8})
    monkeypatch.setattr(stages, "arithmetic", lambda _: {"judge": 4e9, "gone": 9e9})
    monkeypatch.setattr(stages, "run_all", lambda *_: {"prepare": 2.0, "judge": 8.0})
    assert main(["--markdown", "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "not measured\n"
    assert main(["--results", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "| judge | 8.0 | 80% | 4.0 | 2.0 |" in printed
    assert "| prepare | 2.0 | 20% |  |  |" in printed
    assert "| **all** | **10.0** | | 4.0 | |" in printed
    assert json.loads((tmp_path / "cpu-stages.json").read_text())["conditions"]["torch"] == torch.__version__
    assert main(["--markdown", "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().out == printed
    assert main(["--peak", "--results", str(tmp_path / "other")]) == 0
    assert "judge                    4.0 s" in capsys.readouterr().out
    assert not (tmp_path / "other").exists()


def test_the_clone_gets_nothing_of_this_environment(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PATH", f"/first{os.pathsep}{Path(sys.executable).parent}{os.pathsep}/last")
    environment = stages.clone_environment()
    assert environment["PATH"] == f"/first{os.pathsep}/last"
    assert "OMP_NUM_THREADS" not in environment
