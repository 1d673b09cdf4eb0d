import json
from pathlib import Path

import pytest
import torch
from synthetic import TEST, TRAIN, VALIDATION, blobs, tiny_params

from benchmarks import digit_rule
from benchmarks.digit_rule import Rules, main, measure, table
from randomz.batches import pixels
from randomz.checkpoint import save_tensors
from randomz.models import load_kind
from randomz.quality.digits import fit_class_manifolds
from randomz.yardstick import responses

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, tiny_yardstick, tiny_judge):
    """What a finished run on blobs leaves, its autoencoder untrained."""
    folder, params = tmp_path_factory.mktemp("run"), tiny_params()
    for name, split in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST)):
        images = blobs(*split)
        save_tensors(folder / f"data/{name}.safetensors", {"images": images.images, "labels": images.labels})
    save_tensors(folder / "judge/judge.safetensors", tiny_judge.state_dict())
    tiny_yardstick.save(folder / "artifacts/yardstick.safetensors")
    for seed in params.seeds:
        model = load_kind("ae").build(params.model("ae"), params.network)
        save_tensors(folder / f"artifacts/ae/weights/seed-{seed}.safetensors", model.state_dict())
    return folder


@pytest.fixture
def rows(workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    return measure(tiny_params(), Path("artifacts/yardstick.safetensors"), CPU)


def test_real_digits_pass_and_junk_does_not(rows):
    junk = [f"ae N(0, I), seed {seed}" for seed in tiny_params().seeds]
    assert list(rows) == ["validation", "test", "noise", "shuffled", "blurred", *junk, "all N(0, I)"]
    assert rows["validation"]["accepted"] == pytest.approx(0.95, abs=1 / 300)
    assert rows["test"]["accepted"] > 0.85
    for name in ("noise", "shuffled", *junk):
        assert rows[name]["accepted"] < 0.01
    assert rows["all N(0, I)"]["images"] == sum(rows[name]["images"] for name in junk)


def test_shares_among_the_confident_are_of_those_alone(tiny_yardstick, tiny_judge):
    real, validation, train = (blobs(*split) for split in (TEST, VALIDATION, TRAIN))
    held_out = tiny_judge.features(pixels(validation.images))
    rules = Rules(
        tiny_judge, fit_class_manifolds(tiny_yardstick.training, train.labels, held_out), tiny_yardstick.manifolds
    )
    seen = responses(tiny_judge, torch.cat([pixels(real.images), torch.full((500, 1, 28, 28), 0.5)]))
    row, of_real = rules.row(seen), rules.row(seen[:500])
    assert row["accepted"] == pytest.approx(of_real["accepted"] / 2)
    assert row["accepted"] <= row["accepted_confident"] * row["confident"] + (1 - row["confident"])


def test_a_table_has_a_line_for_each_set(rows):
    lines = table(rows).splitlines()
    assert len(lines) == len(rows) + 2
    assert {line.count("|") for line in lines} == {8}
    assert lines[2].startswith("| validation | 300 |")


def test_the_command_writes_what_it_measured(workspace, monkeypatch, tmp_path):
    monkeypatch.chdir(workspace)
    monkeypatch.setattr(digit_rule, "load_params", tiny_params)
    monkeypatch.setenv("RANDOMZ_DEVICE", "cpu")
    assert main(["--results", str(tmp_path / "rule.json")]) == 0
    tree = json.loads((tmp_path / "rule.json").read_text())
    assert tree["confidence"] == 0.95
    assert tree["sets"]["noise"]["images"] == tiny_params().yardstick.samples


def test_a_run_that_is_not_finished_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(digit_rule, "load_params", tiny_params)
    assert main([]) == 1
    assert "data/train.safetensors" in capsys.readouterr().err
