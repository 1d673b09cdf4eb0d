import base64
import json
import re
import shutil
from html.parser import HTMLParser
from importlib.resources import files
from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
import torch
from dvc_data.hashfile.hash import file_md5
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.meta import Meta
from dvc_data.hashfile.tree import Tree
from dvc_objects.fs.local import LocalFileSystem
from fabricated import make_params, write_results
from PIL import Image

from randomz.checkpoint import load_tensors, save_tensors
from randomz.figures import FIGURES
from randomz.files import write_bytes
from randomz.models import load_kind
from randomz.page import write_page
from randomz.page.decoders import quantise
from randomz.page.hashes import md5
from randomz.page.pictures import contact_sheet, png_size
from randomz.page.prose import inline, sections
from randomz.report import read_study, report_md
from randomz.seeding import generator

BINARIES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SILENCE = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)


def trained(params, name):
    "A model with the weights of chance, three times as large as usual so that its images have contrast."
    torch.manual_seed(len(name))
    model = load_kind(params.models[name].kind).build(params.models[name], params.network)
    with torch.no_grad():
        for layer in model.decoder.stack:
            layer.weight.mul_(3)
    return model.eval()


def add_codes(root, params, name):
    "Weights of every part that has a hash, and codes that the pictured samples are decoded from."
    model, path = trained(params, name), root / f"artifacts/{name}/pictures/seed-{params.seeds[0]}.safetensors"
    save_tensors(root / f"artifacts/{name}/weights/seed-{params.seeds[0]}.safetensors", model.state_dict())
    save_tensors(root / f"artifacts/{name}/priors/seed-{params.seeds[0]}.safetensors", {"x": torch.zeros(1)})
    pictures = load_tensors(path)
    for key in [key for key in pictures if key.startswith("samples.")]:
        noise = generator("page test", len(key))
        shape = (100, 4, 4) if hasattr(model, "quantiser") else (100, 16)
        codes = torch.randint(256, shape, generator=noise) if len(shape) > 2 else torch.randn(shape, generator=noise)
        pictures[key.replace("samples", "codes")] = codes
        with torch.no_grad():
            pictures[key] = (model.decode(codes) * 255).round().byte().squeeze(1)
    save_tensors(path, pictures)


def make(root, *args):
    params = make_params(*args)
    write_results(root, params)
    for split in ("train", "validation", "test"):
        save_tensors(root / f"data/{split}.safetensors", {"x": torch.zeros(1)})
    for name in params.models:
        add_codes(root, params, name)
    study = read_study(params, root / "reports", root / "artifacts")
    # Small stand-ins for the figures, which take seconds to draw.
    figures = [*FIGURES, *(f"samplers_{name}" for name in params.models)]
    write_bytes(root / "reports/report.md", report_md(study, params, figures).encode())
    for place, name in enumerate(figures):
        write_bytes(root / f"reports/figures/{name}.png", contact_sheet(study.controls["real"][: place + 1], 4))
    return params, study


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def made(root):
    params, study = make(root)
    said = write_page(study, params, root)
    return params, study, said


@pytest.fixture(scope="module")
def html(made, root):  # noqa: ARG001 (the page is there)
    return (root / "reports/index.html").read_text()


@pytest.fixture(scope="module")
def embedded(html):
    return json.loads(re.search(r'<script type="application/json" id="decoders">(.*?)</script>', html, re.DOTALL)[1])


class Elements(HTMLParser):
    "Every start tag with its attributes."

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def of(self, *tags):
        return [attributes for tag, attributes in self.found if tag in tags]


def unpacked(text, kind):
    return np.frombuffer(base64.b64decode(text), kind)


def decode(model, sampler):
    "The embedded bytes evaluated as the script does."
    if "codebook" in model:
        entries = unpacked(model["codebook"], "<f4").reshape(model["entries"], -1)
        x = entries[unpacked(model["codes"][sampler], "<u2").reshape(64, -1)].reshape(64, -1)
    else:
        x = unpacked(model["codes"][sampler], "<f4").reshape(64, -1)
    z, x = x, np.zeros((64, 0))
    for place, layer in enumerate(model["layers"]):
        weight = unpacked(layer["weight"], "i1").reshape(layer["rows"], layer["columns"])
        seen = np.hstack([x, z])[:, : layer["columns"]]
        x = seen @ (weight * unpacked(layer["scale"], "<f4")[:, None]).T + unpacked(layer["bias"], "<f4")
        x = (255 if place == len(model["layers"]) - 1 else x) / (1 + np.exp(-x))
    return x


def test_the_page_is_one_small_file_that_asks_for_nothing(made, html):
    assert made[2] == f"page of {len(html.encode()) / 1e6:.1f} MB"
    assert len(html.encode()) < 8e6
    assert not re.search(r"https?://|//[a-z]+\.[a-z]", re.sub(r"base64,[^\"]*", "", html))
    elements = Elements(html)
    sources = [each[key] for _, each in elements.found for key in ("src", "href", "srcset", "data") if key in each]
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert "url(" not in html
    assert "{{" not in html
    policy = next(each["content"] for each in elements.of("meta") if each.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_every_picture_has_an_alt_text_and_a_size(html):
    images = Elements(html).of("img")
    assert len(images) > 20
    assert all(len(image["alt"]) > 20 for image in images)
    for image in images:
        png = base64.b64decode(image["src"].partition(",")[2])
        assert png.startswith(b"\x89PNG")
        assert (int(image["width"]), int(image["height"])) == png_size(png)


def test_ids_are_unique_and_links_lead_to_sections(html):
    elements = Elements(html)
    ids = [each["id"] for _, each in elements.found if "id" in each]
    assert len(ids) == len(set(ids))
    links = [each["href"][1:] for each in elements.of("a")]
    assert set(links) <= set(ids)
    assert {"answer", "explorer", "comparison", "claims", "codebook", "training", "what-was-run"} <= set(links)


def test_the_words_and_figures_of_the_report_stand_in_the_page(made, html, root):
    report = (root / "reports/report.md").read_text()
    answer = re.search(r"^\*\*(.*)\*\*$", report, re.MULTILINE)[1]
    assert f"<p><strong>{inline(answer)}</strong></p>" in html
    for claim in made[1].metrics["claims"]:
        assert f"<code>{claim['id']}</code>" in html
    holding = sum(claim["holds"] is True for claim in made[1].metrics["claims"])
    assert html.count('class="verdict yes"') == holding > 0
    for title in re.findall("^## (.*)$", report, re.MULTILINE):
        assert f"<h2>{title}</h2>" in html
    shown = {name for name in re.findall(r"figures/(.*)\.png", report) if not name.startswith(("samplers", "random_z"))}
    assert html.count("<figure") == len(shown)


def test_samples_stand_side_by_side_and_only_the_random_ones_are_seen_first(made, html):
    _, study, _ = made
    for name, tree in study.models.items():
        panel = re.search(rf'<article class="card of-{name}" data-model="{name}".*?</article>', html, re.DOTALL)[0]
        shown = re.findall(r'<div data-sampler="(\w+)"( hidden)?>', panel)
        assert [sampler for sampler, _ in shown] == list(tree["sampling"])
        random = re.search(r'data-random="(\w+)"', panel)[1]
        assert [sampler for sampler, hidden in shown if not hidden] == [random]
        assert f'data-best="{study.best_fitted(name)}"' in panel


@pytest.mark.parametrize("name", ["ae", "vae", "vqvae"])
def test_the_embedded_decoder_gives_what_torch_gives(made, embedded, name):
    _, study, _ = made
    for sampler in study.models[name]["sampling"]:
        expected = study.pictures[name][0][f"samples.{sampler}"][:64].flatten(1).numpy().astype(float)
        assert expected.std() > 20  # else agreeing would be easy
        assert np.abs(decode(embedded["models"][name], sampler) - expected).mean() < 2


def test_a_plane_lies_where_the_codes_vary_most(embedded):
    model = embedded["models"]["vae"]
    codes = unpacked(model["codes"]["posterior"], "<f4").reshape(64, 16).astype(float)
    directions = np.array(model["directions"])
    assert np.allclose(directions @ directions.T, np.eye(4), atol=1e-4)
    largest = np.linalg.eigvalsh(np.cov(codes.T, bias=True))[::-1][:4]
    assert np.allclose((codes @ directions.T).var(0), largest, rtol=1e-3)
    assert np.allclose(model["mean"], codes.mean(0), atol=1e-5)


def test_quantised_rows_are_near_and_keep_a_row_of_nought():
    weight = np.random.default_rng(0).normal(size=(5, 40)).astype(np.float32) * np.array(
        [[1e-3], [1], [50], [0], [1]], np.float32
    )
    whole, scale = quantise(weight)
    assert np.abs(whole).max() == 127
    assert (np.abs(whole * scale[:, None] - weight) <= 0.501 * scale[:, None]).all()
    assert not whole[3].any()


def test_hashes_are_those_that_dvc_writes(tmp_path):
    tree = Tree()
    for name in ("seed-10", "seed-2", "inner/seed-1"):
        path = tmp_path / "weights" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)

        digest = file_md5(str(path), LocalFileSystem())
        assert md5(path) == digest
        tree.add(tuple(name.split("/")), Meta(), HashInfo("md5", digest))
    tree.digest()
    assert md5(tmp_path / "weights") == tree.hash_info.value


def test_hashes_stand_in_the_page(html, root):
    for path in ("data/test.safetensors", "artifacts/vae/weights"):
        assert f'<th scope="row"><code>{path}</code></th><td><code>{md5(root / path)}</code></td>' in html
    assert f"torch {torch.__version__.partition('+')[0]}" in html
    assert str(root) not in html


def test_the_same_files_give_the_same_bytes_whatever_the_folder(made, html, root, tmp_path):
    params, study, _ = made
    shutil.copytree(root, tmp_path / "copy")
    write_page(study, params, tmp_path / "copy")
    assert (tmp_path / "copy/reports/index.html").read_text() == html


def test_a_page_needs_no_stored_codes(tmp_path):
    params, _ = make(tmp_path, ("ae", "vqvae"), (5,))
    for name in params.models:
        path = tmp_path / f"artifacts/{name}/pictures/seed-5.safetensors"
        save_tensors(path, {key: of for key, of in load_tensors(path).items() if not key.startswith("codes.")})
    write_page(read_study(params, tmp_path / "reports", tmp_path / "artifacts"), params, tmp_path)
    page = (tmp_path / "reports/index.html").read_text()
    assert '"directions": []' in page
    assert '"codes": {}' in page


def test_weights_without_a_decoder_are_named(made, root, tmp_path):
    params, study, _ = made
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "artifacts/vae/weights/seed-0.safetensors"
    save_tensors(path, {"encoder.stack.0.weight": torch.zeros(1, 1)})
    with pytest.raises(ValueError, match=re.escape(f"{path}: has no tensor decoder.stack")):
        write_page(study, params, tmp_path)


MARKDOWN = """# A title

**The answer.**

## One & two

Words with `a < b`, **bold** and *italic*.

|  | x | y |
| :-- | --: | :-- |
| `a\\|b` | 1.5 (1.0 to 2.0) | **does not hold** |

<sub>x: the first · y: the second: of two</sub>

![A picture of it](figures/it.png)

![Another](figures/gone.png)

### Deeper

```sh
dvc repro
```
"""


def test_markdown_becomes_html():
    opening, section = sections(MARKDOWN, lambda name, alt: f"<{name}|{alt}>" if name == "it" else "")
    assert (opening.title, opening.blocks) == ("A title", ["<p><strong>The answer.</strong></p>"])
    assert section.slug == "one-two"
    words, table, glossary, figure, heading, code = section.blocks
    assert words == "<p>Words with <code>a &lt; b</code>, <strong>bold</strong> and <em>italic</em>.</p>"
    assert '<td></td><th class="right">x</th><th>y</th>' in table
    assert '<th scope="row"><code>a|b</code></th><td class="right">1.5 <small>1.0 to 2.0</small></td>' in table
    assert '<td><span class="verdict no">does not hold</span></td>' in table
    assert "<dt>y</dt><dd>the second: of two</dd>" in glossary
    assert figure == '<figure class="scroll"><it|A picture of it></figure>'
    assert heading == "<h3>Deeper</h3>"
    assert "<code>dvc repro</code>" in code
    assert section.html().startswith('<section id="one-two"><h2>One &amp; two</h2>')


def test_a_contact_sheet_is_ink_on_white_with_rules_between():
    images = torch.zeros(5, 28, 28, dtype=torch.uint8)
    images[4] = 200
    png = contact_sheet(images, 2)
    assert png_size(png) == (59, 88)
    sheet = np.array(Image.open(BytesIO(png)))
    assert (sheet[59:87, 1:29] == 55).all()
    assert (sheet[1:29, 30:58] == 255).all()
    assert (sheet[::29] == 222).all()


# --- in a browser ---


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary = next(filter(None, map(shutil.which, BINARIES)), None)
    driver = shutil.which("chromedriver")
    if not (binary and driver):
        pytest.skip("there is no chromium with chromedriver on the PATH (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in SILENCE:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


@pytest.fixture
def page(made, browser, root):  # noqa: ARG001 (the page is there)
    "The page freshly opened; no test may leave an error or a request behind."
    show(browser, 1280, "light")
    browser.get((root / "reports/index.html").as_uri())
    assert browser.find_element("tag name", "html").get_attribute("data-ready") == "yes"
    yield browser
    assert browser.get_log("browser") == []
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [each["params"]["request"]["url"] for each in sent if each["method"] == "Network.requestWillBeSent"]
    assert asked
    assert all(url.startswith(("file:///", "data:")) and not url.endswith((".js", ".css")) for url in asked)
    assert len({url for url in asked if url.startswith("file:")}) == 1


def show(browser, width, scheme):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
    features = [{"name": name, "value": value} for name, value in media.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def card(page, name):
    return page.find_element("css selector", f'#cards [data-model="{name}"]')


def ink(page, name):
    "The grey levels of a card's canvas, 0 for white, once what was asked for is drawn."
    drawn = """
        const [canvas, done] = arguments;
        requestAnimationFrame(() => requestAnimationFrame(() => done(canvas.toDataURL())));
    """
    url = page.execute_async_script(drawn, card(page, name).find_element("css selector", ".digit"))
    return 255 - np.array(Image.open(BytesIO(base64.b64decode(url.partition(",")[2]))).convert("L")).flatten().astype(
        int
    )


def press(element, *keys):
    from selenium.webdriver.common.keys import Keys  # noqa: PLC0415 (installed where a browser is)

    element.send_keys(*(getattr(Keys, key) for key in keys))


def text(page, name, part):
    return card(page, name).find_element("css selector", part).text


@pytest.mark.parametrize("name", ["ae", "vae", "vqvae"])
def test_the_script_decodes_what_torch_decodes(made, page, name):
    _, study, _ = made
    page.find_elements("css selector", "#originals button")[3].click()
    assert text(page, name, ".status") == "code of test image 4"
    expected = study.pictures[name][0]["samples.posterior"][3].flatten().numpy().astype(float)
    assert np.abs(ink(page, name) - expected).mean() < 2


def test_a_random_z_is_another_one_each_time(page):
    seen = []
    for _ in range(2):
        page.find_element("css selector", "[data-draw=random]").click()
        seen.append([ink(page, name) for name in ("ae", "vae", "vqvae")])
    assert all(np.abs(a - b).mean() > 5 for a, b in zip(*seen, strict=True))
    assert "drawn just now" in text(page, "vqvae", ".status")


def test_a_slider_changes_the_image(page):
    before = ink(page, "vae")
    slider = card(page, "vae").find_elements("css selector", ".sliders input")[2]
    press(slider, "END")
    after = ink(page, "vae")
    assert np.abs(after - before).mean() > 2
    assert text(page, "vae", ".status") == "z moved by hand"
    assert (
        card(page, "vae").find_elements("css selector", ".sliders output")[2].text
        == f"{slider.get_attribute('max')}.00"
    )


def test_keys_and_clicks_move_over_the_plane(page):
    pad = card(page, "ae").find_element("css selector", ".pad")
    images = [ink(page, "ae")]
    press(pad, *["ARROW_RIGHT"] * 5)
    images.append(ink(page, "ae"))
    pad.click()
    images.append(ink(page, "ae"))
    press(pad, "ARROW_UP")
    press(pad, "ARROW_DOWN")
    assert all(np.abs(b - a).mean() > 1 for a, b in pairwise(images))
    assert np.abs(ink(page, "ae") - images[-1]).max() <= 1  # there and back


def test_another_pair_of_axes_is_another_plane(page):
    select = page.execute_script("return document.querySelectorAll('[data-model=vae] .axes select')")
    first = page.execute_script("return document.querySelector('#cards [data-model=vae] .map').toDataURL()")
    press(select[0], "END")
    assert page.execute_script("return document.querySelector('#cards [data-model=vae] .map').toDataURL()") != first
    press(select[1], "END")
    assert select[0].get_attribute("value") != select[1].get_attribute("value")


def test_codes_are_swapped_by_keys_and_clicks(page):
    places = card(page, "vqvae").find_elements("css selector", ".codes button")
    assert len(places) == 16
    before, code = ink(page, "vqvae"), places[5].text
    press(places[5], *["ARROW_RIGHT"] * 3)
    swapped = places[5].text
    assert swapped != code
    assert "row 2, column 2" in text(page, "vqvae", ".status")
    after = ink(page, "vqvae")
    assert np.abs(after - before).mean() > 1
    press(places[5], *["ARROW_LEFT"] * 3)
    assert places[5].text == code
    assert np.array_equal(ink(page, "vqvae"), before)
    far = card(page, "vqvae").find_elements("css selector", ".palette button")[-1]
    far.click()
    assert places[5].text == far.text.strip()
    assert np.abs(ink(page, "vqvae") - before).mean() > 1


def test_samplers_are_switched_for_all_or_for_one(page):
    def seen():
        return [
            each.get_attribute("data-sampler")
            for each in page.find_elements("css selector", "[data-sampler]:not([hidden])")
        ]

    assert seen() == ["standard_normal", "standard_normal", "uniform"]
    page.find_element("css selector", "[data-all=posterior]").click()
    assert seen() == ["posterior"] * 3
    assert page.find_element("css selector", "[data-all=posterior]").get_attribute("aria-pressed") == "true"
    press(page.find_element("css selector", ".samples [data-model=ae] select"), "HOME")
    assert seen() == ["standard_normal", "posterior", "posterior"]
    assert page.find_element("css selector", "[data-all=posterior]").get_attribute("aria-pressed") == "false"


def test_a_click_on_a_sample_opens_it(made, page):
    _, study, _ = made
    image = page.find_element("css selector", ".samples [data-model=vae] img")
    chain = pytest.importorskip("selenium.webdriver").ActionChains(page)
    cell = image.size["width"] / 8
    chain.move_to_element(image).move_by_offset(cell / 2, -cell / 2).click().perform()
    assert text(page, "vae", ".status") == "z ~ N(0, I), sample 29"
    expected = study.pictures["vae"][0]["samples.standard_normal"][28].flatten().numpy().astype(float)
    assert np.abs(ink(page, "vae") - expected).mean() < 2


def test_the_theme_follows_the_system_and_the_button(page):
    def back():
        return page.execute_script("return getComputedStyle(document.body).backgroundColor")

    wait = pytest.importorskip("selenium.webdriver.support.wait").WebDriverWait(page, 20)
    light = back()
    show(page, 1280, "dark")
    wait.until(lambda _: back() != light)  # the page hears of it with its next frame
    page.find_element("id", "theme").click()
    assert back() == light


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_as_wide_as_the_screen(page, width):
    show(page, width, "light")
    assert page.execute_script("return document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_no_barrier(page, width, scheme):
    pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")
    show(page, width, scheme)
    page.execute_script("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    # Through the debugger, for the page's own policy lets no script in.
    axe = (files("axe_core_python") / "axe.min.js").read_text()
    page.execute_cdp_cmd("Runtime.evaluate", {"expression": axe})
    found = page.execute_async_script("axe.run(document, {resultTypes: ['violations']}).then(arguments[0])")
    assert len(found["passes"]) > 20
    assert [(each["impact"], each["id"], each["nodes"][0]["html"]) for each in found["violations"]] == []
