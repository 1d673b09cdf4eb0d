"""Our quality figures beside those of torch-fidelity and prdc: time and agreement on the same features.

`python -m benchmarks.metrics [--count 10000] [--repeats 5] [--threads 2]`. Ours take the features in float32, as the
judge gives them. Each peer takes them in the precision in which it is fastest and within 1e-4 of the figure in float64
of both: torch-fidelity's kernel distance is 3e-4 off in float32, and prdc twice as slow in it. The two take turns.
"""

import argparse
import contextlib
import io
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from prdc import compute_prdc
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch_fidelity import metric_fid, metric_kid

from randomz.devices import choose_device
from randomz.files import write_json
from randomz.quality.frechet import feature_statistics, frechet_distance
from randomz.quality.kernel import kernel_distance
from randomz.quality.manifold import manifold_metrics
from randomz.seeding import generator
from randomz.yardstick import load_yardstick

YARDSTICK = Path("artifacts/yardstick.safetensors")
RESULTS = Path("benchmarks/results")
LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "torch-fidelity", "prdc")
FEATURES, CLASSES, NEIGHBOURS = 128, 10, 5
MOST = 10_000  # test images that there are

Figures = dict[str, float]


@dataclass(frozen=True)
class Contest:
    """The same figures by our functions and by a peer's."""

    name: str
    peer: str
    ours: Callable[[], Figures]
    theirs: Callable[[], Figures]


def mixture(count: int) -> tuple[Float[Tensor, "N F"], Float[Tensor, "N F"]]:
    """Two draws from ten rectified Gaussians, the second a little off."""
    stream = generator("benchmark features", count)
    centres = torch.randn(CLASSES, FEATURES, generator=stream) * 2
    draws = torch.randn(2, count, FEATURES, generator=stream) * 0.7
    first, second = (
        (centres[torch.arange(count) % CLASSES] + draw + 0.02 * number).relu() for number, draw in enumerate(draws)
    )
    return first, second


def load_features(path: Path, count: int) -> tuple[Float[Tensor, "N F"], Float[Tensor, "N F"], str]:
    """As many of the judge's features of training and reference images, or of a made mixture; and what they are."""
    if path.exists():
        ruler = load_yardstick(path, torch.device("cpu"))
        drawn = torch.randperm(len(ruler.training), generator=generator("benchmark draw"))[:count]
        return ruler.training[drawn], ruler.reference[:count], "judge: training images against reference images"
    return *mixture(count), "rectified Gaussian mixture"


def contests(
    samples: Float[Tensor, "N F"], reference: Float[Tensor, "N F"], device: torch.device
) -> tuple[Contest, ...]:
    """Each figure by two; ours includes the way from the device."""
    own, real = samples.to(device), reference.to(device)
    wide, wide_real = samples.double(), reference.double()

    def fidelity_fd() -> Figures:
        parts = [metric_fid.fid_features_to_statistics(each) for each in (samples, reference)]
        return {"fd": float(metric_fid.fid_statistics_to_metric(*parts, verbose=False)[metric_fid.KEY_METRIC_FID])}

    def fidelity_kid() -> Figures:
        # One subset that is the whole set: the estimate that our figure is, with no chance in it.
        found = metric_kid.kid_features_to_metric(
            wide, wide_real, kid_subsets=1, kid_subset_size=len(wide), verbose=False
        )
        return {"kid": float(found[metric_kid.KEY_METRIC_KID_MEAN])}

    def prdc() -> Figures:
        with contextlib.redirect_stdout(io.StringIO()):
            found = compute_prdc(wide_real.numpy(), wide.numpy(), NEIGHBOURS)
        return {name: float(value) for name, value in found.items()}

    return (
        Contest(
            "fd",
            "torch-fidelity, float32",
            lambda: {"fd": frechet_distance(feature_statistics(own), feature_statistics(real))},
            fidelity_fd,
        ),
        Contest("kid", "torch-fidelity, float64", lambda: {"kid": kernel_distance(own, real)}, fidelity_kid),
        Contest("manifold", "prdc, float64", lambda: asdict(manifold_metrics(real, own, NEIGHBOURS)), prdc),
    )


def timed(work: Callable[[], Figures]) -> tuple[float, Figures]:
    """Seconds, and what came out."""
    start = time.perf_counter()
    figures = work()
    return time.perf_counter() - start, figures


def measure(contest: Contest, repeats: int) -> dict[str, Any]:
    """Seconds of both, the ratio of each turn, and how far the figures are apart. One turn before is not counted."""
    contest.ours(), contest.theirs()
    ours: list[tuple[float, Figures]] = []
    theirs: list[tuple[float, Figures]] = []
    for turn in range(repeats):
        sides = [(ours, contest.ours), (theirs, contest.theirs)]
        for measured, work in sides if turn % 2 == 0 else reversed(sides):
            measured.append(timed(work))
    mine, peers = ours[-1][1], theirs[-1][1]
    return {
        "peer": contest.peer,
        "ours_seconds": spread([seconds for seconds, _ in ours]),
        "peer_seconds": spread([seconds for seconds, _ in theirs]),
        "ratio": spread([slow / fast for (fast, _), (slow, _) in zip(ours, theirs, strict=True)]),
        "figures": {
            name: {"ours": mine[name], "peer": peers[name], "relative_difference": apart(mine[name], peers[name])}
            for name in mine
        },
    }


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median and range, with the values."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "values": list(values)}


def apart(value: float, expected: float) -> float:
    """Difference relative to the second."""
    return abs(value - expected) / abs(expected) if expected else abs(value)


def total(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """All the contests of a turn together."""
    ours, theirs = (
        [sum(turn) for turn in zip(*(result[side]["values"] for result in results.values()), strict=True)]
        for side in ("ours_seconds", "peer_seconds")
    )
    ratios = [slow / fast for fast, slow in zip(ours, theirs, strict=True)]
    return {"ours_seconds": spread(ours), "peer_seconds": spread(theirs), "ratio": spread(ratios)}


def conditions(count: int, repeats: int, threads: int, device: torch.device, source: str) -> dict[str, Any]:
    """What a reader has to know of the times."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {
        "device": device.type,
        "device_name": name,
        "processors": os.cpu_count(),
        "threads": threads,
        "features": source,
        "count": count,
        "dimensions": FEATURES,
        "neighbours": NEIGHBOURS,
        "n": repeats,
        "versions": {"python": platform.python_version()} | {library: version(library) for library in LIBRARIES},
    }


def table(results: Mapping[str, Mapping[str, Any]], whole: Mapping[str, Any]) -> str:
    """One line a contest, one a figure."""
    lines = [f"{'':10}{'ours, s':>22}{'peer, s':>24}{'peer / ours':>22}   median (min to max)"]
    for name, result in {**results, "all": whole}.items():
        cells = (_cell(result[key]) for key in ("ours_seconds", "peer_seconds", "ratio"))
        lines.append(f"{name:10}" + "{:>22}{:>24}{:>22}".format(*cells) + f"   {result.get('peer', '')}")
    lines.append(f"\n{'':10}{'ours':>22}{'peer':>24}{'relative difference':>22}")
    lines += [
        f"{name:10}{each['ours']:>22.9g}{each['peer']:>24.9g}{each['relative_difference']:>22.1e}"
        for result in results.values()
        for name, each in result["figures"].items()
    ]
    return "\n".join(lines)


def _cell(values: Mapping[str, Any]) -> str:
    return f"{values['median']:.3g} ({values['min']:.3g} to {values['max']:.3g})"


def limit_processors(threads: int) -> None:
    """Give this process so many processors: prdc starts eight threads whatever it is told."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.metrics", description=__doc__)
    parser.add_argument("--count", type=int, default=MOST, help=f"feature vectors of each set (default: {MOST})")
    parser.add_argument("--repeats", type=int, default=5, help="turns after one that is not counted (default: 5)")
    parser.add_argument("--threads", type=int, default=2, help="processors for both (default: 2)")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"folder of the result (default: {RESULTS})")
    asked = parser.parse_args(arguments)
    if not FEATURES < asked.count <= MOST or asked.repeats < 1 or asked.threads < 1:
        parser.error(f"--count takes {FEATURES + 1} to {MOST}, --repeats and --threads 1 or more")
    device = choose_device()
    limit_processors(asked.threads)
    torch.set_num_threads(asked.threads)
    samples, reference, source = load_features(YARDSTICK, asked.count)
    with threadpool_limits(asked.threads):
        results = {each.name: measure(each, asked.repeats) for each in contests(samples, reference, device)}
    whole = total(results)
    print(table(results, whole))
    tree = conditions(len(samples), asked.repeats, asked.threads, device, source) | {"contests": results, "all": whole}
    path = asked.results / f"{device.type}-metrics.json"
    write_json(path, tree)
    print(f"\n{path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
