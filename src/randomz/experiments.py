"""experiments.yaml: questions, each with the one `dvc exp run` line that asks it and the result that is kept.

An experiment changes params and nothing else. DVC runs it in a temporary copy of the repository and keeps all that it
wrote in a commit of its own under refs/exps, so the workspace and its reports stay as they are.
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from randomz.files import write_json
from randomz.params import PARAMS_FILE, ModelName, Params, ParamsError, load_params

EXPERIMENTS_FILE = Path("experiments.yaml")
RESULTS = Path("reports/experiments")
# What a result follows from: DVC takes uncommitted changes of these into an experiment.
SOURCES = ("src", "pipeline", "judge", "dvc.yaml", PARAMS_FILE.name, EXPERIMENTS_FILE.name)

Key = Annotated[str, Field(pattern=r"^[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*$")]


class ExperimentError(ValueError):
    """An experiment cannot be run, or experiments.yaml cannot be used; the message says which key or command."""


class Experiment(BaseModel):
    """An entry of experiments.yaml: dotted keys of params.yaml with their new values, and the models that it is about.

    A mapping as a value is an entry that params.yaml does not have.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    question: Annotated[str, Field(min_length=1)]
    settings: Annotated[dict[Key, Any], Field(min_length=1, alias="set")]
    models: Annotated[tuple[ModelName, ...], Field(min_length=1)]


Experiments = Mapping[str, Experiment]
_FILE = TypeAdapter(dict[ModelName, Experiment])


def load_experiments(path: Path = EXPERIMENTS_FILE) -> Experiments:
    """The entries of experiments.yaml by their names.

    Raises ExperimentError with a line for each mistake: its key, what was found and what is accepted.
    """
    raw = _read_yaml(path)
    try:
        # Through JSON, as params.yaml is read: a list is taken for a tuple and nothing else for anything.
        return _FILE.validate_json(json.dumps(raw, default=str))
    except ValidationError as error:
        lines = [f"{path}: {_explain(problem)}" for problem in error.errors(include_url=False)]
        raise ExperimentError("\n".join(dict.fromkeys(lines))) from error


def find_experiment(experiments: Experiments, name: str) -> Experiment:
    """The entry called `name`. Raises ExperimentError that lists the names."""
    if name not in experiments:
        raise ExperimentError(f"{EXPERIMENTS_FILE}: {name}: no such entry; accepted: {', '.join(experiments)}")
    return experiments[name]


def changed_params(name: str, experiment: Experiment, path: Path = PARAMS_FILE) -> Params:
    """params.yaml as the experiment has it, validated.

    Raises ParamsError where params.yaml itself is wrong, ExperimentError with a line for each mistake of the entry.
    """
    load_params(path)
    raw = _read_yaml(path)
    changed = deepcopy(raw)
    place = f"{EXPERIMENTS_FILE}: {name}"
    if mistakes := [line for key, value in experiment.settings.items() if (line := _change(changed, key, value))]:
        raise ExperimentError("\n".join(f"{place}: set: {line}" for line in mistakes))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        YAML(typ="safe", pure=True).dump(changed, copy)
        try:
            params = load_params(copy)
        except ParamsError as error:
            raise ExperimentError(str(error).replace(f"{copy}: ", f"{place}: set: ")) from error
    if unknown := [model for model in experiment.models if model not in params.models]:
        raise ExperimentError(f"{place}: models: found {unknown[0]!r}; accepted: {', '.join(params.models)}")
    return params


def arguments(name: str, experiment: Experiment) -> list[str]:
    """What follows `dvc` on the line that asks an experiment's question."""
    changes = [word for key, value in experiment.settings.items() for word in ("-S", _override(key, value))]
    return ["exp", "run", "--temp", "--name", name, *changes, *(f"evaluate@{model}" for model in experiment.models)]


def command(name: str, experiment: Experiment) -> str:
    """The line as a shell takes it."""
    return shlex.join(["dvc", *arguments(name, experiment)])


def run_experiment(name: str, experiment: Experiment, *, dirty: bool = False) -> Path:
    """Run an experiment and write its result; returns the result's path.

    An earlier run of the same name on the same commit is replaced. Raises ExperimentError where something that the
    result follows from has uncommitted changes (unless `dirty`), the entry is wrong, or DVC fails.
    """
    params = changed_params(name, experiment)
    if not dirty:
        _refuse_changes()
    baseline = _git("rev-parse", "HEAD").strip()
    reference = f"refs/exps/{baseline[:2]}/{baseline[2:]}/{name}"  # where DVC puts it
    _git("update-ref", "-d", reference)  # `--force` would make DVC run every stage again, the judge's too
    run_dvc(arguments(name, experiment))
    models = {
        model: json.loads(_git("show", f"{reference}:reports/{model}/metrics.json")) for model in experiment.models
    }
    result = {
        "name": name,
        "question": experiment.question,
        "command": command(name, experiment),
        "settings": experiment.settings,
        "seeds": list(params.seeds),
        "models": models,
    }
    path = RESULTS / f"{name}.json"
    write_json(path, result)
    return path


def run_dvc(words: list[str]) -> None:
    """Run DVC of this environment, and let it speak. Raises ExperimentError where it fails."""
    # Stages start `python` by name, which has to be this environment's.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    quiet = {"DVC_NO_ANALYTICS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment = quiet | os.environ | {"PATH": path}
    done = subprocess.run([sys.executable, "-m", "dvc", *words], env=environment, check=False)  # noqa: S603
    if done.returncode:
        raise ExperimentError(f"dvc exp run ended with {done.returncode}; what went wrong stands above")


def _read_yaml(path: Path) -> Any:  # noqa: ANN401 (whatever the file holds)
    try:
        # The parser that DVC uses, so that numbers read alike.
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise ExperimentError(f"{path}: {' '.join(str(error).split())}; a YAML file is accepted") from error


def _explain(problem: Any) -> str:  # noqa: ANN401 (pydantic's error dict is untyped)
    *section, last = [str(part) for part in problem["loc"] if part != "[key]"] or ["the file"]
    key, found = ".".join([*section, last]), problem["input"]
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key (found {found!r}); accepted: question, set, models"
    if problem["type"] == "missing":
        return f"{key}: missing key; it has to be there"
    message = problem["msg"]
    return f"{key}: found {found!r}; {message[0].lower()}{message[1:]}"


def _change(params: Any, key: str, value: Any) -> str | None:  # noqa: ANN401 (parsed YAML)
    """Set a dotted key in place; a line where that is a mistake."""
    *sections, last = key.split(".")
    node = params
    for section in sections:
        node = node.get(section) if isinstance(node, dict) else None
    if not isinstance(node, dict):
        return f"{key}: params.yaml has no section {'.'.join(sections)}"
    if isinstance(value, dict) and last in node:
        return f"{key}: params.yaml has it already; a mapping is accepted for a new entry"
    if not isinstance(value, dict) and last not in node:
        return f"{key}: params.yaml has no such key; accepted: {', '.join(map(str, node))}"
    node[last] = value
    return None


def _override(key: str, value: Any) -> str:  # noqa: ANN401 (parsed YAML)
    """A setting in the grammar of Hydra's overrides, which DVC reads; a plus adds a key that is not there."""
    return f"{'+' if isinstance(value, dict) else ''}{key}={_spelled(value)}"


def _spelled(value: Any) -> str:  # noqa: ANN401 (parsed YAML)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_spelled(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_spelled, value)) + "]"
    if isinstance(value, str) and any(mark in value for mark in '"\\\n'):
        raise ExperimentError(f"{EXPERIMENTS_FILE}: found {value!r}; a text without quotes and backslashes is accepted")
    if isinstance(value, str) and value.isidentifier() and value.lower() not in {"true", "false", "null", "inf", "nan"}:
        return value
    return json.dumps(value, ensure_ascii=False)


def _refuse_changes() -> None:
    changed = [line[3:] for line in _git("status", "--porcelain", "--", *SOURCES).splitlines()]
    if changed:
        raise ExperimentError(
            f"uncommitted changes in {', '.join(changed)}: a result has to follow from a commit; commit them, or run "
            "with --dirty for a result that is not to be kept"
        )


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)  # noqa: S603, S607
    if done.returncode:
        raise ExperimentError(f"git {words[0]}: {' '.join(done.stderr.split())}")
    return done.stdout
