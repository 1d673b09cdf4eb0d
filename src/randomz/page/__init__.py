"""Results -> reports/index.html: the report as one page that works offline, with the decoders inside it.

Words, tables and pictures are those of report.md, so that the two cannot disagree. Beyond it the page has the samples
of every sampler side by side, an explorer that decodes whatever z the reader makes, and the hashes of what was run.
The same files give the same bytes on the same machine.
"""

import base64
import json
import platform
import re
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from pathlib import Path

import torch

from randomz.claims import Estimate
from randomz.figures import RANDOM, Study, interval, number, percent
from randomz.figures.style import SAMPLER_LABELS
from randomz.files import write_bytes
from randomz.page.decoders import Tree, explorer
from randomz.page.hashes import data_hashes
from randomz.page.pictures import contact_sheet, png_size
from randomz.page.prose import Table, inline, sections, table_html
from randomz.params import Params

ASSETS = files("randomz.page") / "assets"
GRID = 8  # samples in a row and in a column of a contact sheet


def write_page(study: Study, params: Params, root: Path) -> str:
    """Write reports/index.html beside the report.md and figures/ that are there already; say in one line what it is.

    `root` is the folder of reports/, artifacts/ and data/. Raises ValueError or OSError that names the file which is
    missing or broken.
    """
    reports = root / "reports"
    text = (reports / "report.md").read_text(encoding="utf-8")
    named = re.findall(r"\]\(figures/([\w.-]+)\.png\)", text)
    figures = {name: (reports / "figures" / f"{name}.png").read_bytes() for name in named}
    page = page_html(study, text, figures, explorer(study, params, root / "artifacts"), data_hashes(root, params))
    write_bytes(reports / "index.html", page.encode())
    return f"page of {len(page.encode()) / 1e6:.1f} MB"


def page_html(study: Study, text: str, figures: Mapping[str, bytes], decoders: Tree, hashes: Mapping[str, str]) -> str:
    """The whole page: `text` is that of report.md, `figures` the PNGs it shows, by name."""
    shown = {name: png for name, png in figures.items() if not name.startswith(("random_z", "samplers_"))}
    opening, *parts = sections(text, lambda name, alt: picture_html(shown[name], alt) if name in shown else "")
    parts[-1].blocks.append(_provenance(hashes))
    filling = {
        "title": escape(opening.title),
        "answer": next(block for block in opening.blocks if block.startswith("<p>")),
        "style": _asset("page.css"),
        "script": _asset("explorer.js") + _asset("page.js"),
        "colours": "".join(f".of-{name} {{ --model: {study.colour(name)}; }}\n" for name in study.models),
        "links": "".join(f'<li><a href="#{part.slug}">{escape(part.title)}</a></li>' for part in parts),
        "panels": "\n".join(_panels(study, name) for name in study.models),
        "sections": "\n".join(part.html() for part in parts),
        "decoders": json.dumps(decoders | {"labels": SAMPLER_LABELS}, ensure_ascii=False, allow_nan=False).replace(
            "<", "\\u003c"
        ),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: filling[found[1]], _asset("page.html"))


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def picture_html(png: bytes, alt: str, **attributes: str) -> str:
    """A PNG within the page, with its size, so that nothing jumps while it loads."""
    width, height = png_size(png)
    more = "".join(f' {key}="{escape(value)}"' for key, value in attributes.items())
    source = base64.b64encode(png).decode()
    return f'<img src="data:image/png;base64,{source}" width="{width}" height="{height}" alt="{escape(alt)}"{more}>'


def _panels(study: Study, name: str) -> str:
    """The samples of one model, a panel a sampler; the pure random one is what a reader sees first."""
    tree, samples = study.models[name], study.pictures[name][0]
    random, best = RANDOM[tree["kind"]], study.best_fitted(name)
    shown = [sampler for sampler in tree["sampling"] if f"samples.{sampler}" in samples]
    options, panels = [], []
    for sampler in shown:
        label = SAMPLER_LABELS.get(sampler, sampler)
        hidden = "" if sampler == random else " hidden"
        sheet = contact_sheet(samples[f"samples.{sampler}"][: GRID * GRID], GRID)
        image = picture_html(sheet, f"{GRID * GRID} images that {name} decodes from {label}", **{"class": "ink"})
        options.append(f'<option value="{sampler}">{escape(label)}</option>')
        panels.append(
            f'<div data-sampler="{sampler}"{hidden}><div class="crop">{image}</div>{_score(study, name, sampler)}</div>'
        )
    return (
        f'<article class="card of-{name}" data-model="{name}" data-random="{random}" data-best="{best}">'
        f'<h3>{name}</h3><select aria-label="Sampler of {name}">{"".join(options)}</select>{"".join(panels)}</article>'
    )


def _score(study: Study, name: str, sampler: str) -> str:
    ratio, digits = (study.quality(name, sampler, metric) for metric in ("fd_ratio", "digit_rate"))
    return (
        f'<p class="score"><b>{number(ratio.mean)}</b> FD ratio <small>{_span(interval(ratio))}</small></p>'
        f'<p class="score"><b>{percent(_mean_only(digits))}</b> digits <small>{_span(percent(digits))}</small></p>'
    )


def _span(text: str) -> str:
    """The interval of a figure, without its mean."""
    return text.partition(" (")[2].removesuffix(")")


def _mean_only(estimate: Estimate) -> Estimate:
    return Estimate(estimate.mean, None, None, ())


def _provenance(hashes: Mapping[str, str]) -> str:
    versions = f"Python {platform.python_version()}, torch {torch.__version__.partition('+')[0]}"
    rows = [[inline(f"`{path}`"), inline(f"`{md5}`")] for path, md5 in hashes.items()]
    told = (
        f"Made with {versions}. The MD5 sums are those that dvc.lock has of the same files; "
        "that of a folder ends in .dir. Those of the code of every stage stand in dvc.lock as well."
    )
    table = table_html(Table(["", "MD5"], rows, [False, False]))
    return f"<h3>Data, weights and priors</h3><p>{told}</p><details><summary>MD5 sums</summary>{table}</details>"
