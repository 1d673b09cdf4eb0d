import json
import math
import subprocess
from copy import deepcopy

import pytest
from ruamel.yaml import YAML

from randomz.rerun import PINNED, TRAINED, compare, snapshot

QUALITY = {"fd": 100.0, "precision": 0.9}


def seeds(mean):
    return {"mean": mean, "low": mean - 1, "high": mean + 1, "per_seed": [mean - 0.4, mean, mean + 0.4]}


SEEDS = seeds(10.0)
TREES = {
    "reports/yardstick.json": {
        "judge": {"test_accuracy": 0.995},
        "floor": QUALITY,
        "gaussian_rate": {"bits": [1.5, 2.5], "mse": [0.06, 0.05]},
    },
    "reports/vae/metrics.json": {
        "kind": "vae",
        "parameters": 1366848,
        "reconstruction": {"mse": SEEDS, "pca_mse": 0.02},
        "kl": {"bound": {"1": SEEDS}, "active_units": SEEDS | {"low": None, "high": None}},
    },
    "reports/metrics.json": {
        "models": {},
        "claims": [{"id": "vae-is-good", "holds": True}, {"id": "vae-is-best", "holds": None}],
    },
}
LOCK = {
    "schema": "2.0",
    "stages": {
        "prepare": {
            "params": {"params.yaml": {"prepare": {"seed": 0}}},
            "outs": [{"path": "data/test", "md5": "aa"}],
        },
        "yardstick": {
            "deps": [{"path": "data/test", "md5": "aa"}],
            "outs": [{"path": "artifacts/yardstick", "md5": "bb"}, {"path": "reports/yardstick.json", "md5": "cc"}],
        },
        "train@vae": {
            "params": {"params.yaml": {"train.epochs": 20}},
            "outs": [{"path": "artifacts/vae", "md5": "dd"}],
        },
        "evaluate@vae": {
            "deps": [{"path": "artifacts/vae", "md5": "dd"}, {"path": "artifacts/yardstick", "md5": "bb"}],
            "outs": [{"path": "reports/vae/metrics.json", "md5": "ee"}],
        },
        "report": {
            "deps": [{"path": "artifacts", "md5": "ff.dir"}],
            "outs": [{"path": "reports/metrics.json", "md5": "ff"}],
        },
    },
}


def write(root, trees, lock):
    for name, tree in trees.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps(tree))
    with (root / "dvc.lock").open("w") as file:
        YAML(typ="safe").dump(lock, file)
    return root


@pytest.fixture
def committed(tmp_path):
    return write(tmp_path / "committed", TREES, LOCK)


@pytest.fixture
def again(tmp_path):
    "`again(file, keys, value)`: another run, in which one figure is another one; without arguments the same."

    def make(file=None, keys=(), value=None, lock=LOCK):
        trees = json.loads(json.dumps(TREES))
        node = trees.get(file)
        for key in keys[:-1]:
            node = node[key]
        if keys:
            node[keys[-1]] = value
        return write(tmp_path / "again", trees, lock)

    return make


def different(comparison):
    return [(figure.name, figure.verdict) for figure in comparison.figures if figure.verdict != "equal"]


def test_the_same_bits_are_equal(committed, again):
    comparison = compare(committed, again(), exact=True)
    assert different(comparison) == []
    assert comparison.others == {}
    assert comparison.holds
    assert "0 within, 0 outside" in comparison.markdown("HEAD")


@pytest.mark.parametrize(
    ("file", "keys", "value", "verdict"),
    [
        ("reports/yardstick.json", ("floor", "fd"), 100.0 * (1 + 0.9 * PINNED["fd"].relative), "within"),
        ("reports/yardstick.json", ("floor", "fd"), 100.0 * (1 + 1.1 * PINNED["fd"].relative), "outside"),
        ("reports/yardstick.json", ("floor", "precision"), 0.9 + 0.9 * PINNED["precision"].absolute, "within"),
        ("reports/yardstick.json", ("floor", "precision"), 0.9 - 1.1 * PINNED["precision"].absolute, "outside"),
        ("reports/yardstick.json", ("gaussian_rate", "bits", 1), 2.50001, "within"),
        ("reports/yardstick.json", ("gaussian_rate", "bits", 1), 2.6, "outside"),
        ("reports/yardstick.json", ("floor", "fd"), None, "outside"),
        ("reports/vae/metrics.json", ("kind",), "ae", "outside"),
        ("reports/vae/metrics.json", ("parameters",), 1366849, "outside"),
        ("reports/vae/metrics.json", ("reconstruction", "pca_mse"), 0.0201, "outside"),
        # Two intervals of ± 1 allow √2 between the means; mse alone would allow 3 % of 10.
        ("reports/vae/metrics.json", ("reconstruction", "mse"), seeds(11.4), "within"),
        ("reports/vae/metrics.json", ("reconstruction", "mse"), seeds(11.5), "outside"),
        # The same mean of other seeds is not the same result.
        ("reports/vae/metrics.json", ("reconstruction", "mse", "per_seed"), [10.4, 10.0, 9.6], "within"),
        ("reports/vae/metrics.json", ("kl", "bound", "1", "mean"), 10.1, "within"),
        # One seed has no interval: what is stated for the metric is all that is allowed.
        ("reports/vae/metrics.json", ("kl", "active_units", "mean"), 12.0, "within"),
        ("reports/vae/metrics.json", ("kl", "active_units", "mean"), 12.1, "outside"),
        ("reports/metrics.json", ("claims", 0, "holds"), False, "outside"),
        ("reports/metrics.json", ("claims", 1, "holds"), True, "outside"),
    ],
)  # fmt: skip
def test_a_figure_may_differ_as_its_metric_says(committed, again, file, keys, value, verdict):
    comparison = compare(committed, again(file, keys, value))
    ((_, found),) = different(comparison)
    assert found == verdict
    assert comparison.holds is (verdict == "within")
    assert not compare(committed, again(file, keys, value), exact=True).holds


def test_a_figure_on_one_side_only_is_outside(committed, again):
    assert different(compare(committed, again("reports/yardstick.json", ("floor", "kid"), 0.1))) == [
        ("floor.kid", "outside")
    ]
    root = again("reports/yardstick.json", ("floor",), {"fd": 100.0})
    assert different(compare(committed, root)) == [("floor.precision", "outside")]


def changed(stage, section, value):
    lock = deepcopy(LOCK)
    lock["stages"][stage][section] = value
    return lock


def test_stages_of_other_params_and_those_after_them_are_not_compared(committed, again):
    lock = changed("train@vae", "params", {"params.yaml": {"train.epochs": 2}})
    comparison = compare(committed, again("reports/vae/metrics.json", ("kind",), "ae", lock=lock))
    assert comparison.others == {
        "train@vae": "run with other params",
        "evaluate@vae": "run with other params, as train@vae before it was",
        "report": "run with other params, as train@vae before it was",
    }
    assert {figure.stage for figure in comparison.figures} == {"prepare", "yardstick"}
    assert comparison.holds
    assert "- train@vae: run with other params" in comparison.markdown("HEAD")


def test_a_stage_that_one_side_lacks_is_not_compared(committed, again):
    lock = deepcopy(LOCK)
    lock["stages"]["train@ae"] = lock["stages"].pop("train@vae")
    comparison = compare(committed, again(lock=lock))
    assert comparison.others["train@vae"] == "no such stage in this dvc.lock"
    assert comparison.others["train@ae"] == "no such stage in the committed dvc.lock"
    assert "other params" in comparison.others["evaluate@vae"]


def test_data_are_the_same_bytes_on_every_machine_and_weights_only_where_asked(committed, again):
    lock = changed("prepare", "outs", [{"path": "data/test", "md5": "zz"}])
    assert different(compare(committed, again(lock=lock))) == [("data/test", "outside")]
    lock = changed("train@vae", "outs", [{"path": "artifacts/vae", "md5": "zz"}])
    assert compare(committed, again(lock=lock)).holds
    assert different(compare(committed, again(lock=lock), exact=True)) == [("artifacts/vae", "outside")]


def test_nothing_to_compare_is_no_success(committed, again):
    lock = deepcopy(LOCK)
    for stage in lock["stages"].values():
        stage["params"] = {"params.yaml": {"seeds": [7]}}
    assert not compare(committed, again(lock=lock)).holds


def test_the_table_shows_the_figure_that_uses_most_of_its_tolerance(committed, again):
    text = compare(committed, again("reports/yardstick.json", ("floor", "fd"), 100.5)).markdown("HEAD")
    assert text.startswith("Against HEAD: ")
    assert "| yardstick | fd | 1 | 0 | floor.fd | 100 | 100.5 | ± 0.0100 | outside |" in text
    assert "| yardstick | test_accuracy | 1 | 1 |" in text


def test_every_tolerance_is_a_number_with_a_reason():
    for tolerance in [*PINNED.values(), *TRAINED.values()]:
        assert 0 < max(tolerance.relative, tolerance.absolute) < math.inf
        assert tolerance.reason


def test_every_metric_of_the_committed_reports_has_a_tolerance(request, tmp_path):
    folder = request.config.rootpath / "reports"
    files = [folder / "yardstick.json", folder / "study.json", *folder.glob("*/metrics.json")]
    trees = {f"reports/{path.relative_to(folder)}": json.loads(path.read_text()) for path in files}
    lock = {"stages": {name: {"outs": [{"path": name, "md5": "aa"}]} for name in trees}}
    root = write(tmp_path / "shipped", trees, lock)
    numbers = [figure for figure in compare(root, root).figures if isinstance(figure.committed, float | dict)]
    assert len(numbers) > 300
    assert {figure.metric for figure in numbers if figure.allowed == 0} <= {"strength", "bound_images"}


def test_a_commit_or_a_folder_is_what_is_compared_with(committed, monkeypatch):
    for words in (
        ["init", "--quiet"],
        ["add", "."],
        ["-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "--quiet", "-m", "run"],
    ):
        subprocess.run(["git", *words], cwd=committed, check=True)
    monkeypatch.chdir(committed)
    (committed / "reports/yardstick.json").write_text("{}")
    with snapshot("HEAD") as folder:
        assert json.loads((folder / "reports/yardstick.json").read_text()) == TREES["reports/yardstick.json"]
    assert not folder.exists()
    with snapshot(str(committed)) as folder:
        assert folder == committed
    for wrong in ("no-such", "--output=x"):
        with (
            pytest.raises(ValueError, match=f"^{wrong}: no folder, and no commit with dvc.lock and reports/"),
            snapshot(wrong),
        ):
            pass
