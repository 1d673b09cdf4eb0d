import json

import pytest
import torch

from benchmarks import metrics
from benchmarks.metrics import Contest, load_features, main, measure


@pytest.fixture(autouse=True)
def processors(monkeypatch):
    """The test's process keeps its processors and threads."""
    monkeypatch.setattr(metrics, "limit_processors", lambda _: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setenv("RANDOMZ_DEVICE", "cpu")


def test_written_figures_of_both_are_equal(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["--count", "300", "--repeats", "3", "--threads", "1", "--results", str(tmp_path)]) == 0
    tree = json.loads((tmp_path / "cpu-metrics.json").read_text())
    figures = {name: each for result in tree["contests"].values() for name, each in result["figures"].items()}
    assert list(figures) == ["fd", "kid", "precision", "recall", "density", "coverage"]
    assert all(each["relative_difference"] < 1e-4 for each in figures.values())
    assert figures["fd"]["ours"] > 0
    assert tree["n"] == 3
    assert tree["threads"] == 1
    assert tree["versions"]["torch"] == torch.__version__.partition("+")[0]
    times = [len(each["values"]) for each in (*tree["all"].values(), tree["contests"]["kid"]["ratio"])]
    assert times == [3, 3, 3, 3]
    printed = capsys.readouterr().out
    assert all(f"\n{name} " in printed for name in ("fd", "kid", "manifold", "all", *figures))


def test_turns_alternate_after_one_that_is_not_counted():
    calls = []
    contest = Contest("x", "peer", lambda: calls.append("o") or {"x": 1.0}, lambda: calls.append("t") or {"x": 2.0})
    result = measure(contest, 3)
    assert "".join(calls) == "ot" + "ot" + "to" + "ot"
    assert result["figures"]["x"] == {"ours": 1.0, "peer": 2.0, "relative_difference": 0.5}
    ratios = [s / f for f, s in zip(result["ours_seconds"]["values"], result["peer_seconds"]["values"], strict=True)]
    assert result["ratio"]["values"] == ratios
    assert result["ratio"]["min"] <= result["ratio"]["median"] <= result["ratio"]["max"]


def test_features_of_the_yardstick_are_taken_where_it_is(tmp_path, tiny_yardstick):
    path = tmp_path / "yardstick.safetensors"
    _, _, source = load_features(path, 200)
    assert source == "rectified Gaussian mixture"
    tiny_yardstick.save(path)
    samples, reference, source = load_features(path, 200)
    assert source.startswith("judge")
    assert torch.equal(reference, tiny_yardstick.reference[:200])
    assert samples.shape == (200, 128)
    assert all((row == tiny_yardstick.training).all(1).any() for row in samples)
    assert torch.equal(load_features(path, 200)[0], samples)


def test_bad_arguments_are_refused(capsys):
    for arguments in (["--count", "128"], ["--count", "10001"], ["--repeats", "0"], ["--threads", "0"]):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        assert "--count takes 129 to 10000, --repeats and --threads 1 or more" in capsys.readouterr().err
