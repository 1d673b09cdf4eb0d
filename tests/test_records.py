import json
import re
from pathlib import Path

import mirrored
import pytest

from randomz.lock import LockError, read_lock
from randomz.params import load_params
from randomz.records import RecordError, read_records


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(mirrored.build(tmp_path, "vae", "vq-small"))
    return tmp_path


def records():
    return {record.name: record for record in read_records(read_lock(), load_params())}


def fingerprints():
    return {name: record.tags["fingerprint"] for name, record in records().items()}


@pytest.mark.usefixtures("workspace")
def test_the_report_comes_after_every_model_and_seed():
    assert list(records()) == ["vae-seed-0", "vae-seed-1", "vq-small-seed-0", "vq-small-seed-1", "report"]


@pytest.mark.usefixtures("workspace")
def test_a_curve_without_rows_of_a_seed_is_not_in_its_record():
    found = records()
    assert found["vae-seed-0"].curves["prior/gmm/validation_nats"] == {0: 8.25}
    assert "prior/gmm/validation_nats" not in found["vae-seed-1"].curves


def test_an_empty_cell_is_no_point(workspace):
    path = workspace / "reports/vae/history.csv"
    lines = path.read_text().splitlines()
    cells = lines[2].split(",")
    assert cells[:2] == ["0", "2"]
    lines[2] = ",".join([*cells[:3], "", *cells[4:]])
    path.write_text("\n".join(lines))
    mirrored.finish(workspace)
    column = lines[0].split(",")[3]
    assert list(records()["vae-seed-0"].curves[column]) == [1, 3]


def test_null_stands_for_no_figure(workspace):
    path = workspace / "reports/vae/metrics.json"
    tree = json.loads(path.read_text())
    tree["latent"] = {"knn_accuracy": mirrored.over_seeds(0.5, 0.75) | {"per_seed": [None, 0.75]}, "plain": None}
    path.write_text(json.dumps(tree))
    mirrored.finish(workspace)
    found = records()
    assert "latent/knn_accuracy" not in found["vae-seed-0"].metrics
    assert found["vae-seed-1"].metrics["latent/knn_accuracy"] == 0.75
    assert "latent/plain" not in found["vae-seed-1"].metrics


def edit_lock(pattern, replacement):
    """Change what the first match of a pattern in dvc.lock says."""
    path = Path("dvc.lock")
    text, count = re.subn(pattern, replacement, path.read_text(), count=1, flags=re.DOTALL)
    assert count
    path.write_text(text)


@pytest.mark.usefixtures("workspace")
def test_a_fingerprint_is_the_same_each_time_and_no_other_runs():
    assert fingerprints() == fingerprints()
    assert len(set(fingerprints().values())) == 5


@pytest.mark.parametrize(
    ("pattern", "changed"),
    [
        (r"(train@vae:.*?deps:.*?md5: )\w+", ["vae-seed-0", "vae-seed-1"]),
        (r"(yardstick:.*?outs:.*?md5: )\w+", ["vae-seed-0", "vae-seed-1", "vq-small-seed-0", "vq-small-seed-1"]),
    ],
)
@pytest.mark.usefixtures("workspace")
def test_a_fingerprint_follows_the_stages_of_its_model_and_the_yardstick(pattern, changed):
    before = fingerprints()
    edit_lock(pattern, r"\g<1>" + "d" * 32)
    after = fingerprints()
    assert [name for name in before if before[name] != after[name]] == changed


@pytest.mark.usefixtures("workspace")
def test_every_file_that_is_wrong_is_named_on_a_line_of_its_own():
    Path("artifacts/vae/priors/seed-0.safetensors").unlink()
    Path("reports/vq-small/history.csv").write_text("seed,epoch\n")
    with pytest.raises(RecordError) as caught:
        records()
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "artifacts/vae/priors",
        "reports/vq-small/history.csv",
    ]


@pytest.mark.usefixtures("workspace")
def test_a_stage_that_was_never_run_is_named():
    edit_lock(r"prior@vae:", "prior@former:")
    with pytest.raises(LockError, match=r"no stage prior@vae \(.*run `dvc repro`"):
        records()


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("history.csv", r"^seed,", "sead,", r"history\.csv: KeyError\('seed'\)"),
        ("history.csv", r"(?m)^1,", "7,", r"history\.csv: no row of seed 1"),
        ("history.csv", r"(?m)^0,2,[^,]*", "0,2,nan", r"history\.csv: .*learning_rate is nan"),
        ("history.csv", r"(?m)^0,2,", "0,two,", r"history\.csv: .*two"),
        ("metrics.json", r'("per_seed": )\[-99\.0, -98\.0\]', r"\1[-99.0]", r"kl/bound/1: per_seed has 1 values; .*2"),
        ("metrics.json", r"\}$", "", r"metrics\.json: cannot be read"),
        ("metrics.json", r"^.*$", "[]", r"metrics\.json: holds a list"),
    ],
)
def test_a_file_of_another_form_is_one_clear_line(workspace, file, old, new, message):
    path = workspace / "reports/vae" / file
    text, count = re.subn(old, new, path.read_text())
    assert count
    path.write_text(text)
    mirrored.write_lock(workspace, ["vae", "vq-small"])
    with pytest.raises(RecordError, match=message) as caught:
        records()
    assert str(caught.value).startswith(f"reports/vae/{file}: ")
    assert "\n" not in str(caught.value)
