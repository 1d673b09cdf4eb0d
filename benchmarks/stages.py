"""Where the time of `make reproduce` goes: `python -m benchmarks.stages` runs every stage in a clone and times it.

`make reproduce` runs once in a fresh clone of HEAD, its own environment and an empty DVC cache included, and says when
each stage starts; so a stage's time is that of its command and of what DVC does after it. Beside it stands what
arithmetic alone takes: the operations of the matrix products that follow from params.yaml, over the measured rate of
such products in float32 on all cores.
`--peak` measures that rate alone; `--markdown` prints the table of the last result.
"""

import argparse
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.metrics import RESULTS
from benchmarks.roofline import forward_operations, multiply_rate, operations, step_operations
from randomz.devices import choose_device
from randomz.files import read_json, write_json
from randomz.judge import FEATURES, Judge
from randomz.likelihood_bounds import DRAWS
from randomz.models import load_kind
from randomz.models.base import LatentModel
from randomz.params import Params, load_params
from randomz.priors.autoregressive import Autoregressive
from randomz.priors.flow import Flow
from randomz.trainer import build_seeded

STARTED = re.compile(r"^Running stage '(.+)':|^\S+python -m (dvc repro|pipeline\.publish)$")
BEFORE = "set-up"
OTHERS = {"dvc repro": "what DVC does before", "pipeline.publish": "publish by the Makefile"}
TRAINING_IMAGES = 60_000  # of MNIST, those held out for validation too
FEW = 10  # images by which operations are counted
MANIFOLD_PRODUCTS = 2  # samples with themselves and with the reference images: their distances


def stage_seconds(lines: Iterable[str], clock: Callable[[], float]) -> dict[str, float]:
    """Seconds of each stage from what `make reproduce` prints while it runs; the first entry is the set-up."""
    seconds: dict[str, float] = {}
    name, since = BEFORE, clock()
    for line in lines:
        print(line, end="", flush=True)
        if found := STARTED.match(line):
            seconds[name] = clock() - since
            name, since = found[1] or OTHERS[found[2]], clock()
    return seconds | {name: clock() - since}


def run_all(environment: Mapping[str, str], folder: Path) -> dict[str, float]:
    """Everything in a clone, from set-up to the mirror. Raises CalledProcessError where something fails."""
    subprocess.run(["git", "clone", "--quiet", ".", str(folder)], check=True)  # noqa: S603, S607
    command = ["make", "reproduce"]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout is not None
        seconds = stage_seconds(process.stdout, time.perf_counter)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return seconds


def clone_environment() -> dict[str, str]:
    """A newcomer's: without this environment and what is set for it, and with no line held back."""
    own = {"VIRTUAL_ENV", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "MLFLOW_TRACKING_URI", "PYTHONPATH"}
    path = [part for part in os.environ["PATH"].split(os.pathsep) if Path(part) != Path(sys.executable).parent]
    kept = {key: value for key, value in os.environ.items() if key not in own}
    return kept | {"PATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}


def arithmetic(params: Params) -> dict[str, float]:
    """Operations of the stages whose matrix products follow from the params; for the others there is no entry.

    EM is counted with all its iterations and twice, for it is in float64.
    """
    held_out = params.prepare.validation
    train = TRAINING_IMAGES - held_out
    x = torch.rand(FEW, 1, 28, 28)
    judge = Judge().train()
    learn, look = (value / FEW for value in judge_operations(judge, x))
    found = {"judge": params.judge.epochs * (train * learn + held_out * look)}
    for name, config in params.models.items():
        kind = load_kind(config.kind)
        model = build_seeded(lambda kind=kind, config=config: kind.build(config, params.network), 0)  # type: ignore[misc]
        learn_model, look_model = step_operations(model, kind.loss, x) / FEW, forward_operations(model, x) / FEW
        epochs, seeds = params.train.epochs, len(params.seeds)
        found[f"train@{name}"] = seeds * epochs * (train * learn_model + held_out * look_model)
        found[f"prior@{name}"] = seeds * prior_operations(params, name, model, train)
        found[f"evaluate@{name}"] = seeds * evaluate_operations(params, name, model, look)
    return found


def judge_operations(judge: Judge, x: torch.Tensor) -> tuple[int, int]:
    """Of a training step and of a look at these images."""
    return operations(lambda: judge(x).sum().backward()), operations(lambda: judge.features(x))


def prior_operations(params: Params, name: str, model: LatentModel, train: int) -> float:
    """Of the network that is fitted, and of EM over the sufficient statistics."""
    config: Any = params.model(name)
    if config.kind == "vqvae":
        codes = params.prior.vqvae
        network = Autoregressive(torch.randn(config.codes, config.dimensions), config.grid, codes)
        grids = torch.zeros(FEW, config.grid**2, dtype=torch.long)
        each = operations(lambda: network(grids[:, 0], grids).sum().backward()) / FEW
        return codes.epochs * train * each
    density = getattr(params.prior, config.kind)
    flow = Flow(config.dimensions, density.flow)
    z = torch.randn(FEW, model.embed(model.encode(torch.rand(1, 1, 28, 28))).shape[1])
    each = operations(lambda: flow.flow().log_prob(z).sum().backward()) / FEW
    d = config.dimensions
    statistics = 1 + d + d * (d + 1) // 2
    steps = density.gmm.iterations * min(train, density.gmm.codes) * sum(density.gmm.components)
    return float(density.flow.epochs * train * each + 2 * steps * 4 * statistics)


def evaluate_operations(params: Params, name: str, model: LatentModel, look: float) -> float:
    """Of one seed: samples of every sampler decoded, judged and compared by distance; a VAE's bounds."""
    config, count = params.model(name), params.evaluate.samples
    codes = model.encode(torch.rand(FEW, 1, 28, 28))
    with torch.no_grad():
        decode = operations(lambda: model.decode(codes)) / FEW
    samplers = 4 if config.kind == "ae" else 5 if config.kind == "vae" else 4
    distances = MANIFOLD_PRODUCTS * 2 * count * count * FEATURES
    bounds = params.evaluate.bound_images * DRAWS * decode if config.kind == "vae" else 0
    return samplers * (count * (decode + look) + distances) + bounds


def table(tree: Mapping[str, Any]) -> list[str]:
    """Rows of Markdown."""
    lines = ["| Stage | seconds | share | arithmetic alone, s | times that |", "|---|---|---|---|---|"]
    whole = sum(tree["seconds"].values())
    for name, seconds in tree["seconds"].items():
        least = tree["arithmetic_seconds"].get(name)
        cells = [f"{least:.1f}", f"{seconds / least:.1f}"] if least else ["", ""]
        lines.append("| " + " | ".join([name, f"{seconds:.1f}", f"{seconds / whole:.0%}", *cells]) + " |")
    least = sum(tree["arithmetic_seconds"].get(name, 0.0) for name in tree["seconds"])
    return [*lines, f"| **all** | **{whole:.1f}** | | {least:.1f} | |"]


def section(tree: Mapping[str, Any]) -> list[str]:
    """The table, and in a few words how it was measured."""
    if not tree:
        return ["not measured"]
    how = tree["conditions"]
    rates = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in tree["rates"].items())
    note = (
        f"`{how['command']}`: {how['processors']} cores, {how['device']} ({how['device_name']}), torch "
        f"{how['torch']}, load before {how['load_before']:.1f}; products of matrices of 2048 x 2048, GFLOP/s: {rates}"
    )
    return [*table(tree), "", note]


def measure_rates(device: torch.device) -> dict[str, float]:
    """Operations a second of large products, by the kind of number."""
    return {
        str(dtype).removeprefix("torch."): multiply_rate(dtype, device) for dtype in (torch.float32, torch.bfloat16)
    }


def conditions(device: torch.device) -> dict[str, Any]:
    """What a reader has to know of the times."""
    return {
        "command": shlex.join(["python", "-m", "benchmarks.stages"]),
        "device": device.type,
        "device_name": torch.cuda.get_device_name()
        if device.type == "cuda"
        else torch.backends.cpu.get_cpu_capability(),
        "processors": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; or only print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stages", description=__doc__)
    parser.add_argument("--peak", action="store_true", help="no stage: the rates, and the least time of each stage")
    parser.add_argument("--markdown", action="store_true", help="no measurement: the table of the last result")
    parser.add_argument("--clone", type=Path, help="an empty folder for the clone, which stays (default: it goes)")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"folder of the result (default: {RESULTS})")
    asked = parser.parse_args(arguments)
    device = choose_device()
    path = asked.results / f"{device.type}-stages.json"
    if asked.markdown:
        print("\n".join(section(read_json(path) if path.exists() else {})))
        return 0
    tree: dict[str, Any] = {"conditions": conditions(device), "rates": measure_rates(device)}
    least = {name: count / tree["rates"]["float32"] for name, count in arithmetic(load_params()).items()}
    tree["arithmetic_seconds"] = least
    if asked.peak:
        rates = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in tree["rates"].items())
        print("\n".join([rates, *(f"{name:20}{seconds:8.1f} s" for name, seconds in least.items())]))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        tree["seconds"] = run_all(clone_environment(), asked.clone or Path(folder) / "clone")
    write_json(path, tree)
    print("\n".join(section(tree)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
