"""dvc.yaml declares exactly the code and the params that the stages read."""

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
DVC = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())
PARAMS = YAML(typ="safe").load((ROOT / "params.yaml").read_text())


def resolve(text, key=None):
    if key is None:
        return text
    return text.replace("${key}", key).replace("${item.kind}", PARAMS["models"][key]["kind"])


def stages():
    for name, stage in DVC["stages"].items():
        if "foreach" in stage:
            for key in PARAMS["models"]:
                yield f"{name}@{key}", stage["do"], key
        else:
            yield name, stage, None


def code_dependencies(stage, key):
    return {d for d in (resolve(dep, key) for dep in stage["deps"]) if d.endswith(".py")}


# A stage script is imported in a process of its own, and what it loads lazily too. The process is a fork of one that
# has imported what takes seconds and is not ours.
PROBE = """
import importlib, json, os, sys
import matplotlib, pydantic, scipy, sklearn.cluster, sklearn.linear_model, zuko
for line in sys.stdin.read().splitlines():
    script, kind, *lazy = json.loads(line)
    if pid := os.fork():
        if os.waitpid(pid, 0)[1]:
            sys.exit(line)
        continue
    importlib.import_module(script)
    if kind:
        from randomz.models import load_kind
        load_kind(kind)
    for module in lazy:
        importlib.import_module(module)
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    print(json.dumps([script, kind, [file for file in files if file]]), flush=True)
    os._exit(0)
"""


def lazy_imports(script):
    "Modules of ours that a script's own code imports inside functions."
    found = set()
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and node.col_offset > 0 and (node.module or "").startswith("randomz"):
            found.add(node.module)
    return sorted(found)


def kinds_of(stage):
    "The kinds of model that a stage's script may be started for, each with one of them."
    return {entry["kind"]: key for key, entry in PARAMS["models"].items()} if "foreach" in stage else {"": None}


def definition(stage):
    return stage.get("do", stage)


def script_of(stage):
    return definition(stage)["cmd"].split()[2]


@pytest.fixture(scope="module")
def real_imports():
    "The files of ours that the script of a stage imports, by script and kind."
    asked = [
        json.dumps([script, kind, *lazy_imports(ROOT / f"{script.replace('.', '/')}.py")])
        for stage in DVC["stages"].values()
        for script in [script_of(stage)]
        for kind in kinds_of(stage)
    ]
    command, pipe = [sys.executable, "-c", PROBE], subprocess.PIPE
    done = subprocess.run(command, cwd=ROOT, input="\n".join(asked), stdout=pipe, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(asked)
    return {(script, kind): ours(map(Path, files)) for script, kind, files in found}


def ours(files):
    inside = [file for file in files if file.is_relative_to(ROOT / "src") or file.is_relative_to(ROOT / "pipeline")]
    return {str(file.relative_to(ROOT)) for file in inside}


@pytest.mark.parametrize("name", DVC["stages"])
def test_declared_code_is_what_a_stage_imports(real_imports, name):
    """A stage over all models has one list for all kinds: the file of its own kind, and what any kind imports."""
    stage = DVC["stages"][name]
    kinds = kinds_of(stage)
    real = {kind: real_imports[script_of(stage), kind] for kind in kinds}
    of_kinds = {f"src/randomz/models/{kind}.py" for kind in kinds}
    for kind, key in kinds.items():
        declared = code_dependencies(definition(stage), key)
        assert real[kind] <= declared
        assert declared <= set().union(*real.values())
        assert declared & of_kinds == real[kind] & of_kinds


def test_every_dependency_exists_or_is_made_by_a_stage():
    made = set()
    for _, stage, key in stages():
        for section in ("outs", "metrics", "plots"):
            for out in stage.get(section, []):
                made.add(resolve(out if isinstance(out, str) else next(iter(out)), key))
    for name, stage, key in stages():
        for dep in stage["deps"]:
            path = resolve(dep, key)
            of_stages = any(out == path or out.startswith(f"{path}/") for out in made)
            assert of_stages or (ROOT / path).exists(), f"{name}: {path}"


def test_every_section_of_params_is_read_by_a_stage():
    read = {resolve(p, key).split(".")[0] for _, stage, key in stages() for p in stage.get("params", [])}
    assert read == set(PARAMS)


def test_every_module_of_the_library_is_a_dependency_of_some_stage():
    declared = {dep for _, stage, key in stages() for dep in code_dependencies(stage, key)}
    ours = {str(p.relative_to(ROOT)) for p in (ROOT / "src").rglob("*.py")} | {
        str(p.relative_to(ROOT)) for p in (ROOT / "pipeline").rglob("*.py")
    }
    of_no_stage = {"src/randomz/packaging.py", "src/randomz/experiments.py", "pipeline/experiment.py"} | {
        *("src/randomz/comparison.py", "src/randomz/revisions.py", "pipeline/compare.py"),
        *("src/randomz/drift.py", "src/randomz/rerun.py", "pipeline/drift.py", "pipeline/screenshots.py"),
        *("src/randomz/cli.py", "src/randomz/handwriting.py"),
    }
    assert ours - declared <= of_no_stage
    assert importlib.util.find_spec("randomz") is not None
