"""Photograph MLflow's pages over the runs of this repository, and the report's page, into reports/screenshots/.

Needs Chromium with chromedriver, and selenium (of the test group). The store is copied first, so nothing in it changes.
"""

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from randomz.files import write_bytes
from randomz.params import load_params

STORE = Path("mlflow.db")
PAGE = Path("reports/index.html")
TARGET = Path("reports/screenshots")
BINARIES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WORDS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage")
WIDTH, HEIGHT, TALL = 1400, 800, 1300
PATIENCE = 90  # seconds until a page has to show what is awaited
SETTLED = 3  # seconds that the page then moves on
WIDER = 55  # pixels
CURRENT = "tags.`randomz.status` = 'current' AND params.model LIKE '%'"  # the report's run has no such param
# Where MLflow remembers that its assistant, which it opens by itself, was closed.
QUIET = """
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
"""
CLOSE = ("mlflow.experiment_page.shared_view.dismiss", "mlflow_header.toggle_sidebar_button")  # a banner, the side bar
COLUMNS = (
    "reconstruction/mse",
    "latent/linear_accuracy",
    "sampling/posterior/fd_ratio",
    "sampling/standard_normal/fd_ratio",
    "sampling/uniform/fd_ratio",
)
AXES = (
    "reconstruction/mse",
    "latent/linear_accuracy",
    "latent/fd_interpolation",
    "latent/digit_rate_interpolation",
    "sampling/posterior/fd_ratio",
)
PICTURES = ("reconstructions", "samples")  # that training leaves at some epochs

State = Mapping[str, Any]


def main(words: Sequence[str] | None = None) -> int:
    """Take all pictures, or those that are named; the exit status is 1 where one of them cannot be taken."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.screenshots", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*SHOTS, []], help="of pictures; all of them by default")
    names = parser.parse_args(words).names or list(SHOTS)
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            open_server(Path(folder)) as address,
            open_browser() as browser,
        ):
            for name in names:
                SHOTS[name](browser, address)
                save(TARGET / f"{name}.png", browser.get_screenshot_as_png())
    except (ValueError, OSError, ImportError) as error:
        print(f"screenshots: {error}", file=sys.stderr)
        return 1
    return 0


def save(path: Path, picture: bytes) -> None:
    """A picture with the 256 colours that it needs most, which makes the file a third as large."""
    content = BytesIO()
    Image.open(BytesIO(picture)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
        content, "PNG", optimize=True
    )
    write_bytes(path, content.getvalue())
    print(f"{path}: {len(content.getvalue()) / 1000:.0f} kB")


@contextmanager
def open_browser() -> Iterator[Any]:
    """Headless Chromium. Raises ImportError or ValueError where it or its driver is not installed."""
    from selenium import webdriver  # noqa: PLC0415 (of the test group)

    binary, driver = next(filter(None, map(shutil.which, BINARIES)), None), shutil.which("chromedriver")
    if binary is None or driver is None:
        raise ValueError("there is no chromium with chromedriver on the PATH (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for word in (*WORDS, f"--window-size={WIDTH},{HEIGHT + 200}"):
        options.add_argument(word)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield browser
    finally:
        browser.quit()


@contextmanager
def open_server(folder: Path) -> Iterator[str]:
    """MLflow's pages over a copy of the store, at an address of this machine alone."""
    if not STORE.exists():
        raise ValueError(f"{STORE}: is not there; `make reproduce` or `python -m pipeline.publish` writes it")
    shutil.copy(STORE, folder / STORE.name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--workers", "1", "--port", str(port), "--backend-store-uri", f"sqlite:///{folder / STORE.name}"]
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "mlflow", "ui", *words],
        env=os.environ | settings,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            address = f"http://127.0.0.1:{port}"
            _wait(lambda: _answers(f"{address}/health"), "MLflow's pages")
            yield address
        finally:
            os.killpg(process.pid, 15)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):  # noqa: S310 (this machine)
            return True
    except OSError:
        return False


def _ask(address: str, path: str, body: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401 (parsed JSON)
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{address}/api/2.0/mlflow/{path}", content, {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        return json.load(answer)


def _open(browser: Any, address: str, name: str, mode: str, state: State) -> None:  # noqa: ANN401 (selenium's)
    """Open a view of the experiment as MLflow shares one: it is a tag of the experiment, named in the link."""
    found = _experiment(address)
    tag = {"experiment_id": found, "key": f"mlflow.sharedViewState.{name}", "value": json.dumps(_view(state))}
    _ask(address, "experiments/set-experiment-tag", tag)
    _size(browser, WIDTH, HEIGHT)
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": QUIET})
    browser.get("about:blank")  # a link that differs behind its # alone would not be loaded anew
    browser.get(f"{address}/#/experiments/{found}/runs?compareRunsMode={mode}&viewStateShareKey={name}")
    for part in CLOSE:
        button = f"[data-component-id='{part}']"
        _await(browser, button, part)
        browser.find_element("css selector", button).click()


def _experiment(address: str) -> str:
    name = load_params().publish.experiment
    return str(_ask(address, f"experiments/get-by-name?experiment_name={name}")["experiment"]["experiment_id"])


def _view(state: State) -> State:
    return {
        "searchFilter": CURRENT,
        "orderByKey": "attributes.start_time",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "SHOWALL",
        "selectedColumns": [],
        "groupBy": None,
        "groupsExpanded": {},
        "useGroupedValuesInCharts": False,
        "compareRunSections": [],
        "compareRunCharts": [],
        "isAccordionReordered": False,
        "hideEmptyCharts": True,
        "autoRefreshEnabled": False,
        "viewMaximized": True,
        "runListHidden": False,
        **state,
    }


def _charts(*charts: State, height: int) -> State:
    section = {"uuid": "shown", "name": "Compared", "display": True, "isReordered": True, "deleted": False}
    section |= {"columns": 1, "cardHeight": height}
    common = {"metricSectionId": "shown", "deleted": False, "isGenerated": False, "runsCountToCompare": 10}
    return {
        "compareRunSections": [section | {"isGenerated": False}],
        "compareRunCharts": [common | {"uuid": f"chart-{place}"} | dict(chart) for place, chart in enumerate(charts)],
        "isAccordionReordered": True,
    }


def _runs(browser: Any, address: str) -> None:  # noqa: ANN401 (selenium's)
    by_model = {"aggregateFunction": "average", "groupByKeys": [{"mode": "param", "groupByData": "model"}]}
    columns = [f"metrics.`{name}`" for name in COLUMNS]
    _open(browser, address, "runs", "TABLE", {"groupBy": by_model, "selectedColumns": columns})
    _wait(lambda: "(average)" in _text(browser), "the table of runs")
    _widen(browser)
    time.sleep(SETTLED)


def _widen(browser: Any) -> None:  # noqa: ANN401 (selenium's)
    """Draw the columns of metrics wider by their borders, the last one first: it pushes no other out of the window."""
    from selenium.webdriver import ActionChains  # noqa: PLC0415 (of the test group)

    borders = browser.find_elements("css selector", ".ag-header-cell[col-id^='metrics.'] .ag-header-cell-resize")
    for border in reversed(borders):
        ActionChains(browser).drag_and_drop_by_offset(border, WIDER, 0).perform()
    ActionChains(browser).move_by_offset(0, HEIGHT // 2).perform()  # away from what would show a hint


def _parallel(browser: Any, address: str) -> None:  # noqa: ANN401 (selenium's)
    chart = {"type": "PARALLEL", "selectedParams": ["model"], "selectedMetrics": list(AXES), "showAllRuns": True}
    _open(browser, address, "parallel", "CHART", _charts(chart, height=430))
    _await(browser, ".parcoords canvas, .parcoords svg", "parallel coordinates")
    time.sleep(SETTLED)


def _images(browser: Any, address: str) -> None:  # noqa: ANN401 (selenium's)
    runs = f"{CURRENT} AND params.seed = '{load_params().seeds[0]}'"
    step = _last_step(address, runs)
    chart = {"type": "IMAGE", "imageKeys": list(PICTURES), "step": step}
    _open(browser, address, "images", "CHART", {"searchFilter": runs, **_charts(chart, height=960)})
    _size(browser, WIDTH, TALL)  # every run is headed by its params
    _await(browser, "img[src*='get-artifact']", "pictures by epoch")
    time.sleep(SETTLED)


def _last_step(address: str, runs: str) -> int:
    """The last epoch with a picture. Raises ValueError where there is none."""
    body = {"experiment_ids": [_experiment(address)], "filter": runs, "max_results": 1}
    for run in _ask(address, "runs/search", body).get("runs", []):
        listed = _ask(address, f"artifacts/list?run_id={run['info']['run_id']}&path=images").get("files", [])
        if steps := [int(found[1]) for file in listed if (found := re.search(r"step\D(\d+)", file["path"]))]:
            return max(steps)
    raise ValueError(f"{STORE}: the runs have no pictures by epoch; `python -m pipeline.publish` adds them")


def _report(width: int, height: int) -> Callable[[Any, str], None]:
    def show(browser: Any, address: str) -> None:  # noqa: ANN401 (selenium's)
        del address
        _size(browser, width, height)
        browser.get(PAGE.resolve().as_uri())
        _await(browser, "html[data-ready=yes]", str(PAGE))

    return show


def _size(browser: Any, width: int, height: int) -> None:  # noqa: ANN401 (selenium's)
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}  # noqa: PLR2004 (a phone)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def _text(browser: Any) -> str:  # noqa: ANN401 (selenium's)
    return str(browser.find_element("tag name", "body").text)


def _await(browser: Any, element: str, what: str) -> None:  # noqa: ANN401 (selenium's)
    _wait(lambda: browser.find_elements("css selector", element), what)


def _wait(done: Callable[[], object], what: str) -> None:
    """Raises ValueError where it takes too long."""
    end = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > end:
            raise ValueError(f"{what}: not there after {PATIENCE} seconds")
        time.sleep(0.2)


SHOTS: Mapping[str, Callable[[Any, str], None]] = {
    "mlflow-runs": _runs,
    "mlflow-parallel": _parallel,
    "mlflow-images": _images,
    "report": _report(1280, 900),
    "report-phone": _report(390, 844),
}

if __name__ == "__main__":
    sys.exit(main())
