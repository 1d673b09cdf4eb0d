"""The pictures of MLflow's pages and the report: those that README shows are there, and small."""

import json
import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import screenshots

ROOT = Path(__file__).parents[2]
SHOWN = re.findall(r"reports/screenshots/[\w-]+\.png", (ROOT / "README.md").read_text())
WIDTHS = {"report": 1280, "report-phone": 390}


def test_readme_shows_pictures_that_the_script_takes():
    assert len(SHOWN) >= 4
    assert {Path(path).stem for path in SHOWN} <= set(screenshots.SHOTS)


@pytest.mark.parametrize("path", SHOWN)
def test_a_picture_is_there_and_small(path):
    assert (ROOT / path).stat().st_size <= 200_000
    with Image.open(ROOT / path) as picture:
        assert picture.width == WIDTHS.get(Path(path).stem, screenshots.WIDTH)


def test_a_picture_loses_no_more_than_a_few_shades(tmp_path, capsys):
    ramp = np.linspace(0, 255, 64 * 64).reshape(64, 64)
    picture = Image.fromarray(np.stack([ramp, ramp[::-1], ramp.T], axis=-1).astype(np.uint8))
    content = BytesIO()
    picture.save(content, "PNG")
    screenshots.save(tmp_path / "a.png", content.getvalue())
    with Image.open(tmp_path / "a.png") as opened:
        saved = np.asarray(opened.convert("RGB")).astype(int)
    assert np.abs(saved - np.asarray(picture).astype(int)).mean() < 12
    assert f"{tmp_path / 'a.png'}: " in capsys.readouterr().out


def test_without_a_store_one_line_says_what_writes_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert screenshots.main(["mlflow-runs"]) == 1
    assert capsys.readouterr().err.startswith("screenshots: mlflow.db: is not there; `make reproduce`")


def test_a_picture_that_is_none_is_refused(capsys):
    with pytest.raises(SystemExit):
        screenshots.main(["moon"])
    assert "report-phone" in capsys.readouterr().err


class Browser:
    def __init__(self):
        self.opened, self.clicked = [], []

    def execute_cdp_cmd(self, *_):
        pass

    def get(self, address):
        self.opened.append(address)

    def find_elements(self, *_):
        return [self]

    def find_element(self, _, selector):
        self.clicked.append(selector)
        return self

    def click(self):
        pass


def test_a_view_is_a_tag_of_the_experiment_that_the_link_names(monkeypatch):
    asked = []

    def ask(_, path, body=None):
        asked.append((path, body))
        return {"experiment": {"experiment_id": "7"}}

    monkeypatch.setattr(screenshots, "_ask", ask)
    monkeypatch.setattr(screenshots, "SETTLED", 0)
    monkeypatch.chdir(ROOT)
    browser = Browser()
    screenshots.SHOTS["mlflow-parallel"](browser, "http://here")
    tag = asked[-1][1]
    assert (tag["experiment_id"], tag["key"]) == ("7", "mlflow.sharedViewState.parallel")
    (chart,) = json.loads(tag["value"])["compareRunCharts"]
    assert chart["type"] == "PARALLEL"
    assert chart["selectedMetrics"] == list(screenshots.AXES)
    assert browser.opened[-1] == "http://here/#/experiments/7/runs?compareRunsMode=CHART&viewStateShareKey=parallel"
    assert len(browser.clicked) == 2


def test_the_metrics_on_the_axes_are_those_of_every_model():
    models = json.loads((ROOT / "reports/metrics.json").read_text())["models"]
    for metrics in models.values():
        for axis in screenshots.AXES:
            node = metrics
            for part in axis.split("/"):
                node = node[part]
            assert "mean" in node
