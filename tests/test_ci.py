"""The workflows of GitHub and GitLab do the same, by scripts and targets that exist; one comment a request is kept."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
GITHUB = YAML(typ="safe").load(ROOT / ".github/workflows/ci.yml")
GITLAB = YAML(typ="safe").load(ROOT / ".gitlab-ci.yml")
RUN = (ROOT / ".ci/run").read_text()


def steps(job, key):
    return [step[key] for step in GITHUB["jobs"][job]["steps"] if key in step]


def cached_by_github():
    paths = [step["with"]["path"] for step in GITHUB["jobs"]["check"]["steps"] if "cache" in step.get("uses", "")]
    return {path for lines in paths for path in lines.split()}


@pytest.mark.parametrize("job", ["check", "comment"])
def test_both_call_the_same_script(job):
    (line,) = GITLAB[job]["script"]
    assert line in steps(job, "run")
    assert (ROOT / line.split()[1]).is_file()


@pytest.mark.parametrize("name", ["run", "summary"])
def test_a_script_is_one_that_bash_can_read(name):
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / name)], check=True)


def test_what_the_script_calls_exists():
    targets = re.findall(r"^([\w.]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    called = re.findall(r"^\s*make (\w+)", RUN, re.MULTILINE)
    assert called == ["lint", "drift", "test"]
    assert set(called) <= set(targets)
    modules = set(re.findall(r"python -m (pipeline\.\w+|randomz\.\w+)", RUN))
    assert {"pipeline.publish", "pipeline.drift", "randomz.params"} <= modules
    for module in modules:
        path = Path(*module.split(".")).with_suffix(".py")
        assert (ROOT / path).is_file() or (ROOT / "src" / path).is_file()
    for script in re.findall(r"\.ci/[\w.]+", RUN):
        assert (ROOT / script).is_file()


def test_the_small_run_changes_params_that_exist():
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    keys = re.findall(r"-S '?([\w.]+)=", RUN)
    assert len(keys) > 5
    for key in keys:
        node = params
        for part in key.split("."):
            node = node[part]


def test_both_keep_the_environment_and_the_cache_of_dvc():
    kept = {path for cache in GITLAB["check"]["cache"] for path in cache["paths"]}
    assert cached_by_github() == {"~/.cache/uv", ".venv", ".tools", "build/ci-cache"}
    assert kept == {".cache/uv", ".venv", ".tools", "build/ci-cache"}
    assert GITLAB["check"]["variables"]["UV_CACHE_DIR"] == "$CI_PROJECT_DIR/.cache/uv"
    assert "cache=$PWD/build/ci-cache" in RUN
    for path in (".venv/x", ".tools/x", "build/x"):
        assert subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT, check=False).returncode == 0


def test_both_see_the_whole_history_and_the_base_of_a_request():
    (checkout,) = [step for step in GITHUB["jobs"]["check"]["steps"] if "checkout" in step.get("uses", "")]
    (script,) = [step for step in GITHUB["jobs"]["check"]["steps"] if step.get("run") == "bash .ci/run"]
    assert checkout["with"]["fetch-depth"] == 0 == GITLAB["check"]["variables"]["GIT_DEPTH"]
    assert "github.base_ref" in script["env"]["BASE"]
    assert GITLAB["check"]["variables"]["BASE"] == "$CI_MERGE_REQUEST_DIFF_BASE_SHA"
    assert "${BASE:-HEAD^}" in RUN


def test_both_have_a_browser_for_the_page():
    assert any("google-chrome" in run and "$CHROMEWEBDRIVER" in run for run in steps("check", "run"))
    assert any("chromium-driver" in line for line in GITLAB["check"]["before_script"])


def test_both_keep_the_report_though_the_script_has_failed():
    (upload,) = [step for step in GITHUB["jobs"]["check"]["steps"] if "upload-artifact" in step.get("uses", "")]
    assert upload["if"] == "${{ !cancelled() }}"
    assert GITLAB["check"]["artifacts"]["when"] == "always"
    assert upload["with"]["path"] == GITLAB["check"]["artifacts"]["paths"][0].rstrip("/") == "build/ci-report"
    assert "report=$PWD/build/ci-report" in RUN


def test_actions_are_of_one_publisher_and_pinned_to_a_major():
    used = [step["uses"] for job in GITHUB["jobs"].values() for step in job["steps"] if "uses" in step]
    assert len(used) > 8
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", each) for each in used)


def test_only_the_job_that_needs_it_may_write():
    rights = {name: job.get("permissions", GITHUB["permissions"]) for name, job in GITHUB["jobs"].items()}
    assert rights == {
        "check": {"contents": "read"},
        "comment": {"contents": "read", "pull-requests": "write"},
        "pages": {"contents": "read", "pages": "write", "id-token": "write"},
    }
    assert "head.repo.full_name == github.repository" in GITHUB["jobs"]["comment"]["if"]


def test_the_page_is_published_from_main_alone_once_all_has_passed():
    assert GITHUB["jobs"]["pages"]["if"] == "github.event_name == 'push' && github.ref == 'refs/heads/main'"
    assert GITHUB["jobs"]["pages"]["needs"] == "check"
    assert GITLAB["pages"]["rules"] == [{"if": "$CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH"}]
    assert GITLAB["pages"]["needs"] == ["check"]
    assert (ROOT / "reports/index.html").is_file()


REPORT = """# Does decoding a random z give a digit?

**Yes.**

## Comparison

![a picture](figures/a.png)
| model | fd |
| :-- | --: |
| vae | 5 |

## Claims

| claim | holds |

## Sampling

not in a summary
"""


@pytest.mark.parametrize(("diff", "said"), [("", "No figure differs."), ("| fd | 5 | 6 |\n", "| fd | 5 | 6 |")])
def test_the_summary_has_tables_and_no_pictures(tmp_path, diff, said):
    (tmp_path / "report.md").write_text(REPORT)
    (tmp_path / "metrics-diff.md").write_text(diff)
    (tmp_path / "rerun.md").write_text("Against HEAD: 5 equal, 1 within, 0 outside.\n\n| stage |\n| fd | equal |\n")
    done = subprocess.run(
        ["bash", str(ROOT / ".ci/summary"), str(tmp_path)], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert {"| vae | 5 |", "| claim | holds |", "| fd | equal |", said} <= set(lines)
    assert "Against HEAD: 5 equal, 1 within, 0 outside." in lines
    assert "picture" not in done.stdout
    assert "not in a summary" not in done.stdout
    assert done.stdout.count("<details>") == done.stdout.count("</details>")


@pytest.fixture(scope="module")
def comment():
    spec = importlib.util.spec_from_file_location("comment", ROOT / ".ci/comment.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["comment"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def forge():
    "A server that keeps comments as GitHub and GitLab do, at most two a page; `asked` are the requests."
    kept, asked = [], []

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "null")
            asked.append((self.command, self.path, dict(self.headers)))
            if self.command == "GET":
                page = int(re.search(r"&page=(\d+)", self.path)[1])
                said = kept[2 * page - 2 : 2 * page]
            elif self.command == "POST":
                said = {"id": len(kept), **body}
                kept.append(said)
            else:
                said = kept[int(self.path.rsplit("/", 1)[1])]
                said.update(body)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(said).encode())

        do_GET = do_POST = do_PATCH = do_PUT = answer  # noqa: N815 (the library's names)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", kept, asked
    server.shutdown()
    thread.join()
    server.server_close()


def variables(kind, url):
    if kind == "github":
        names = {"GITHUB_API_URL": url, "GITHUB_REPOSITORY": "someone/randomz", "PULL_REQUEST": "7"}
        return names | {"GITHUB_TOKEN": "secret"}
    return {"CI_API_V4_URL": url, "CI_PROJECT_ID": "3", "CI_MERGE_REQUEST_IID": "7", "GITLAB_TOKEN": "secret"}


@pytest.mark.parametrize(
    ("kind", "comments", "header", "method"),
    [
        ("github", "/repos/someone/randomz/issues/7/comments", ("Authorization", "Bearer secret"), "PATCH"),
        ("gitlab", "/projects/3/merge_requests/7/notes", ("Private-Token", "secret"), "PUT"),
    ],
)
def test_a_request_gets_one_comment_that_is_replaced(comment, forge, tmp_path, kind, comments, header, method):
    url, kept, asked = forge
    kept += [{"id": place, "body": "Well done"} for place in range(3)]
    file = tmp_path / "summary.md"
    file.write_text("first")
    assert comment.main([str(file)], variables(kind, url)) == 0
    file.write_text("second")
    assert comment.main([str(file)], variables(kind, url)) == 0
    assert [each["body"] for each in kept] == ["Well done"] * 3 + [f"{comment.MARKER}\nsecond"]
    assert [command for command, _, _ in asked if command != "GET"] == ["POST", method]
    assert all(path.startswith(comments.rpartition("/7")[0]) for _, path, _ in asked)
    assert all(
        {name.title(): value for name, value in headers.items()}[header[0]] == header[1] for *_, headers in asked
    )


def test_a_long_text_is_cut_to_what_fits(comment, forge, tmp_path):
    url, kept, _ = forge
    (tmp_path / "summary.md").write_text("x" * 70_000)
    comment.main([str(tmp_path / "summary.md")], variables("github", url))
    assert len(kept[0]["body"]) < 65_536
    assert kept[0]["body"].endswith("the artifact has all of it)")


@pytest.mark.parametrize("lacking", ["GITHUB_TOKEN", "PULL_REQUEST"])
def test_a_run_that_may_not_write_says_so_and_passes(comment, forge, tmp_path, capsys, lacking):
    url, kept, asked = forge
    (tmp_path / "summary.md").write_text("first")
    names = variables("github", url)
    names[lacking] = ""
    assert comment.main([str(tmp_path / "summary.md")], names) == 0
    assert comment.main([str(tmp_path / "absent.md")], variables("github", url)) == 0
    assert kept == asked == []
    assert [line.partition(";")[0] for line in capsys.readouterr().out.splitlines()] == [
        "comment: no token, or no pull or merge request",
        f"comment: no {tmp_path / 'absent.md'}",
    ]


def test_the_workflow_passes_its_linter():
    linter = shutil.which("actionlint")
    if linter is None:
        pytest.skip("there is no actionlint on the PATH")
    subprocess.run([linter], cwd=ROOT, check=True)
