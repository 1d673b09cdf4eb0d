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


# A stage script is imported in a process of its own; what it loads lazily is loaded there too.
PROBE = """
import importlib, json, sys
script, kind = sys.argv[1:3]
importlib.import_module(script)
if kind:
    from randomz.models import load_kind
    load_kind(kind)
for lazy in sys.argv[3:]:
    importlib.import_module(lazy)
files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
print(json.dumps([file for file in files if file]))
"""


def lazy_imports(script):
    "Modules of ours that a script's own code imports inside functions."
    found = set()
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and node.col_offset > 0 and (node.module or "").startswith("randomz"):
            found.add(node.module)
    return sorted(found)


def real_imports(script, kind):
    path = ROOT / (script.replace(".", "/") + ".py")
    command = [sys.executable, "-c", PROBE, script, kind, *lazy_imports(path)]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    ours = {Path(file) for file in json.loads(out)}
    relative = {
        file.relative_to(ROOT)
        for file in ours
        if file.is_relative_to(ROOT / "src") or file.is_relative_to(ROOT / "pipeline")
    }
    return {str(file) for file in relative}


def cases():
    for name, stage in DVC["stages"].items():
        yield pytest.param(stage.get("do", stage), "foreach" in stage, id=name)


@pytest.mark.parametrize(("stage", "each_model"), list(cases()))
def test_declared_code_is_what_a_stage_imports(stage, each_model):
    """A stage over all models has one list for all kinds: the file of its own kind, and what any kind imports."""
    kinds = {PARAMS["models"][key]["kind"]: key for key in PARAMS["models"]} if each_model else {"": None}
    script = stage["cmd"].split()[2]
    real = {kind: real_imports(script, kind) for kind in kinds}
    of_kinds = {f"src/randomz/models/{kind}.py" for kind in kinds}
    for kind, key in kinds.items():
        declared = code_dependencies(stage, key)
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
        *("src/randomz/drift.py", "src/randomz/rerun.py", "pipeline/drift.py"),
    }
    assert ours - declared <= of_no_stage
    assert importlib.util.find_spec("randomz") is not None
