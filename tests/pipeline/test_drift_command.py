"""`python -m pipeline.drift` as CI calls it; what it finds is tested with randomz.drift and randomz.rerun."""

from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline import drift
from randomz import rerun
from randomz.drift import Drift, DriftError
from randomz.rerun import Comparison, Figure


def test_a_commit_in_line_says_so_and_what_it_could_not_see(monkeypatch, capsys):
    monkeypatch.setattr(drift, "find_drift", lambda: Drift({}, {}, [Path("data/test"), Path("data/train")]))
    assert drift.main([]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "not here, so not compared: 2 outputs of dvc.yaml, first data/test",
        "dvc.lock, params, code and committed reports match: nothing would run",
    ]


def test_drift_is_exit_status_1_and_a_line_each(monkeypatch, capsys):
    found = Drift({"train@ae": ["train.py is modified"]}, {"report": ["train@ae"]}, [])
    monkeypatch.setattr(drift, "find_drift", lambda: found)
    assert drift.main([]) == 1
    assert capsys.readouterr().out.splitlines() == ["train@ae: train.py is modified", "report: comes after train@ae"]


def test_what_cannot_be_read_is_one_line(monkeypatch, capsys):
    def fail():
        raise DriftError("dvc: dvc.yaml is none")

    monkeypatch.setattr(drift, "find_drift", fail)
    assert drift.main([]) == 1
    assert capsys.readouterr().err == "drift: dvc: dvc.yaml is none\n"


@pytest.mark.parametrize(("here", "status"), [(1.0, 0), (2.0, 1)])
def test_against_prints_the_table(monkeypatch, capsys, here, status):
    @contextmanager
    def folder(against):
        assert against == "HEAD"
        yield Path("committed")

    def compare(committed, *, exact):
        assert committed == Path("committed")
        assert exact
        return Comparison([Figure("yardstick", "floor.fd", "fd", 1.0, here, 0)], {})

    monkeypatch.setattr(rerun, "snapshot", folder)
    monkeypatch.setattr(rerun, "compare", compare)
    assert drift.main(["--against", "HEAD", "--exact"]) == status
    assert "| yardstick | fd |" in capsys.readouterr().out


def test_exact_alone_is_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        drift.main(["--exact"])
    assert caught.value.code == 2
    assert "--against" in capsys.readouterr().err
