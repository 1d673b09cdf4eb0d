"""`python -m pipeline.compare` on a repository of two commits: what it prints, writes and refuses."""

import json
import subprocess
from pathlib import Path

import pytest

from pipeline.compare import main
from randomz.intervals import interval


def git(*words):
    subprocess.run(["git", *words], check=True, capture_output=True)


def write_metrics(mse):
    path = Path("reports/vae/metrics.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"kind": "vae", "reconstruction": {"mse": interval(mse), "psnr": interval(mse)}}))


@pytest.fixture(autouse=True)
def _repository(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet", "--initial-branch", "main")
    git("config", "user.name", "tester")
    git("config", "user.email", "tester@localhost")
    lock = {"evaluate@vae": {"cmd": "x", "params": {"params.yaml": {"seeds": [0, 1, 2]}}}}
    Path("dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": lock}))  # JSON is YAML
    git("add", ".")
    git("commit", "--quiet", "-m", "no reports")
    write_metrics([1.0, 5.0, 9.0])
    git("add", ".")
    git("commit", "--quiet", "-m", "reports")
    write_metrics([1.10, 5.12, 9.11])


def said(capsys, *words, status=0):
    assert main(words) == status
    captured = capsys.readouterr()
    assert (captured.out if status else captured.err) == ""
    return captured.err if status else captured.out


def test_the_workspace_is_compared_with_a_revision(capsys):
    out = said(capsys, "HEAD")
    assert out.startswith("A: HEAD (")
    assert "B: workspace\n" in out
    assert "Paired over seeds 0, 1, 2." in out
    rows = [line.split() for line in out.splitlines() if "/" in line]
    assert rows == [["reconstruction/mse", "5.00", "5.11", "0.110", "0.0852", "to", "0.135", "*"]]
    assert "reconstruction/psnr" in said(capsys, "HEAD", "--all")


def test_two_revisions_are_compared(capsys):
    git("commit", "--all", "--quiet", "-m", "other")
    write_metrics([0.0, 0.0, 0.0])
    assert " 0.110 " in said(capsys, "HEAD~1", "HEAD")
    assert f" {chr(0x2212)}0.110 " in said(capsys, "HEAD", "HEAD~1")


def test_markdown_is_written_beside(capsys):
    out = said(capsys, "HEAD", "workspace", "-o", "tables.md")
    assert "reconstruction/mse" in out
    assert "| reconstruction/mse | 5.00 | 5.11 | 0.110 | 0.0852 to 0.135 | \\* |" in Path("tables.md").read_text()
    assert [path.name for path in Path().glob("*.md")] == ["tables.md"]
    assert list(Path().glob(".*.tmp")) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], "compare: nothing: unknown revision; accepted: "),
        (["HEAD", "nothing"], "compare: nothing: unknown revision; accepted: "),
        (["HEAD~1"], "compare: HEAD~1: has no reports/<model>/metrics.json; "),
        (["HEAD", "-o", "absent/tables.md"], "compare: absent/tables.md: cannot be written; a file in a folder that"),
        (["HEAD", "-o", "reports"], "compare: reports: cannot be written; a file in a folder that exists is accepted"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(capsys, words, message):
    err = said(capsys, *words, status=1)
    assert err.startswith(message)
    assert err.count("\n") == 1
    assert not Path("absent").exists()


def test_the_help_says_what_can_be_compared(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "names of DVC experiments" in out
    assert "95 % intervals" in out
