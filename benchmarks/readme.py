"""Put the results that are committed into benchmarks/README.md: `python -m benchmarks.readme`.

A part between `<!-- NAME -->` and `<!-- end -->` is rewritten; what has no result reads "not measured".
"""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import stages, train
from benchmarks.metrics import RESULTS
from randomz.files import read_json

README = Path("benchmarks/README.md")
PART = re.compile(r"(<!-- (?P<name>[a-z0-9-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
DEVICES = ("cpu", "cuda")


def metrics_table(tree: Mapping[str, Any]) -> list[str]:
    """Rows of Markdown of `benchmarks.metrics`."""
    if not tree:
        return ["not measured"]
    lines = ["| Figure | peer | ours, s | peer, s | peer ÷ ours |", "|---|---|---|---|---|"]
    for name, found in {**tree["contests"], "all": tree["all"]}.items():
        cells = [train.cell(found[key]) for key in ("ours_seconds", "peer_seconds", "ratio")]
        lines.append("| " + " | ".join([name, found.get("peer", ""), *cells]) + " |")
    how = f"{tree['processors']} cores, {tree['device']}, n = {tree['n']}, {tree['count']:,} vectors a set"
    return [*lines, "", f"`python -m benchmarks.metrics`: {how}"]


def live_table(tree: Mapping[str, Any]) -> list[str]:
    """Rows of Markdown of `benchmarks.live`."""
    if not tree:
        return ["not measured"]
    lines = ["| The stage train | without | with live logging | its cost |", "|---|---|---|---|"]
    for unit, found in tree["training"].items():
        cost = ", ".join(f"{found['live_costs'][key]:.1%}" for key in ("median", "min", "max"))
        lines.append(f"| {unit} | {train.cell(found['without'])} | {train.cell(found['live'])} | {cost} |")
    alone, share = tree["logger"]["processor_seconds"], tree["logger"]["share"]
    percent = ", ".join(f"{share[key]:.1%}" for key in ("median", "min", "max"))
    lines.append(f"| processor_seconds of the process that logs | | {train.cell(alone)} | {percent} |")
    if "publish" in tree:
        publish, again = (f"{tree[name]['seconds']:.1f} s" for name in ("publish", "publish_again"))
        said = f"Publishing into an empty store takes {publish}, again {again}"
        lines += ["", f"{said}; the first page of `make ui` is there after {tree['ui_seconds']:.1f} s."]
    how = f"{tree['processors']} cores, {tree['device']}, n = {tree['n']}, {tree['epochs']} epochs of {tree['model']}"
    how += f", {len(tree['seeds'])} seeds side by side"
    return [*lines, "", f"`python -m benchmarks.live`: {how}; cost as median, least, most"]


def parts(results: Path) -> dict[str, list[str]]:
    """The lines of every part."""
    found: dict[str, list[str]] = {}
    for device in DEVICES:
        trees = {}
        for name in ("train", "stages", "metrics", "live"):
            path = results / f"{device}-{name}.json"
            trees[name] = read_json(path) if path.exists() else {}
        found |= {f"{device}-{mode}": train.section(trees["train"], mode) for mode in train.MODES}
        found[f"{device}-stages"] = stages.section(trees["stages"])
        found[f"{device}-metrics"] = metrics_table(trees["metrics"])
        found[f"{device}-live"] = live_table(trees["live"])
    return found


def filled(text: str, lines: Mapping[str, Sequence[str]]) -> str:
    """The text with every part rewritten. Raises KeyError for a part that there is no result of."""
    return PART.sub(lambda part: part[1] + "\n".join(["", *lines[part["name"]], "", ""]) + part[3], text)


def main() -> int:
    """Rewrite the file."""
    text = README.read_text(encoding="utf-8")
    README.write_text(filled(text, parts(RESULTS)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
