import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from ruamel.yaml import YAML
from synthetic import tiny_model, tiny_params, tiny_tree

from randomz.checkpoint import save_tensors
from randomz.cli import main
from randomz.handwriting import read_digit
from randomz.priors import build_priors, priors_state
from randomz.seeding import generator
from randomz.sheets import GAP, SCALE
from randomz.trained import decode_all

ROOT = Path(__file__).parents[1]
SAMPLERS = {
    "ae": ["standard_normal", "gaussian", "gmm", "flow"],
    "vae": ["standard_normal", "gaussian", "gmm", "flow"],
    "vqvae": ["uniform", "position", "autoregressive"],
}
EVERY = [(model, sampler) for model, samplers in SAMPLERS.items() for sampler in samplers]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    "A repository with untrained models and unfitted priors, which are enough to draw from."
    root = tmp_path_factory.mktemp("root")
    YAML(typ="safe", pure=True).dump(tiny_tree(), root / "params.yaml")
    for name in SAMPLERS:
        for seed in (0, 1):
            model, _ = tiny_model(name, seed)
            save_tensors(root / f"artifacts/{name}/weights/seed-{seed}.safetensors", model.state_dict())
            state = priors_state(build_priors(tiny_params(), name, model, seed))
            save_tensors(root / f"artifacts/{name}/priors/seed-{seed}.safetensors", state)
    return root


@pytest.fixture
def root(shared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return shared


@pytest.fixture
def picture(tmp_path):
    drawn = Image.new("L", (60, 80), 255)
    ImageDraw.Draw(drawn).ellipse((20, 15, 40, 65), outline=0, width=5)
    drawn.save(tmp_path / "digit.png")
    return tmp_path / "digit.png"


def sample(root, *words):
    assert main(["sample", "--root", str(root), "-o", "grid.png", *words]) == 0
    return Path("grid.png").read_bytes()


def refused(capsys, *words):
    assert main(words) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("randomz: ")
    assert captured.err.count("\n") == 1
    return captured.err.removeprefix("randomz: ").strip()


def cells(path, columns):
    "The images of a sheet, row by row."
    pixels = np.asarray(Image.open(path))[::SCALE, ::SCALE]
    step = 28 + GAP
    rows = pixels.shape[0] // step
    return [
        pixels[GAP + r * step : GAP + r * step + 28, GAP + c * step : GAP + c * step + 28]
        for r in range(rows)
        for c in range(columns)
    ]


@pytest.mark.parametrize(("model", "sampler"), EVERY)
def test_every_sampler_decodes_what_its_prior_draws(root, model, sampler):
    sample(root, "--model", model, "--sampler", sampler, "--n", "5", "--seed", "3")
    trained, _ = tiny_model(model, 0)
    prior = build_priors(tiny_params(), model, trained, 0)[sampler]
    with torch.no_grad():
        images = decode_all(trained.eval(), prior.sample(5, generator(f"sample {sampler}", 3)))
    expected = (255 * images[:, 0]).round().numpy().astype(np.uint8)
    found = cells("grid.png", 3)
    assert len(found) == 6
    assert all((a == b).all() for a, b in zip(found, expected, strict=False))
    assert (found[5] == 255).all()  # the place that is left


def test_equal_seeds_give_equal_files_and_others_do_not(root):
    first = sample(root, "--seed", "1", "--n", "4")
    assert sample(root, "--seed", "1", "--n", "4") == first
    assert sample(root, "--seed", "2", "--n", "4") != first
    assert sample(root, "--seed", "1", "--n", "4", "--trained", "1") != first


@pytest.mark.parametrize(("model", "sampler"), [("vae", "standard_normal"), ("vqvae", "uniform")])
def test_the_first_sampler_is_the_one_without_a_fit(root, model, sampler):
    assert sample(root, "--model", model, "--n", "4") == sample(
        root, "--model", model, "--n", "4", "--sampler", sampler
    )


@pytest.mark.parametrize(("count", "side"), [(1, 1), (4, 2), (5, 3), (64, 8), (65, 9)])
def test_the_grid_is_about_square(root, count, side):
    sample(root, "--n", str(count))
    with Image.open("grid.png") as grid:
        width, height = grid.size
    assert width == SCALE * (side * (28 + GAP) + GAP)
    assert height == SCALE * (-(-count // side) * (28 + GAP) + GAP)


@pytest.mark.parametrize("model", SAMPLERS)
def test_a_picture_stands_beside_its_reconstruction(root, picture, model):
    assert main(["reconstruct", str(picture), "--model", model, "--root", str(root), "-o", "pairs.png"]) == 0
    digit = read_digit(picture)
    trained, _ = tiny_model(model, 0)
    with torch.no_grad():
        trained.eval()
        images = trained.decode(trained.encode(torch.from_numpy(digit)[None, None].float() / 255))
    left, right = cells("pairs.png", 2)
    assert (left == digit).all()
    assert (right == (255 * images[0, 0]).round().numpy().astype(np.uint8)).all()


def test_each_picture_has_its_row(root, picture, tmp_path):
    Image.open(picture).rotate(90, expand=True).save(tmp_path / "turned.png")
    words = ["reconstruct", "digit.png", "turned.png", "digit.png", "--root", str(root), "-o", "pairs.png"]
    assert main(words) == 0
    found = cells("pairs.png", 2)
    assert len(found) == 6
    assert (found[0] == found[4]).all()
    assert (found[1] == found[5]).all()
    assert not (found[0] == found[2]).all()


@pytest.mark.usefixtures("picture")
def test_the_caller_says_which_is_the_ink(root, capsys):
    words = ("reconstruct", "digit.png", "--root", str(root), "-o", "pairs.png")
    assert main([*words, "--invert"]) == 0
    assert "digit.png: no ink was found" in refused(capsys, *words, "--no-invert")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "vea"], "params.yaml: models.vea: no such entry; accepted: ae, vae, vqvae"),
        (["--sampler", "gm"], "sampler gm: vae has no such one; accepted: standard_normal, gaussian, gmm, flow"),
        (
            ["--model", "vqvae", "--sampler", "gmm"],
            "sampler gmm: vqvae has no such one; accepted: uniform, position, autoregressive",
        ),
        (["-o", "absent/grid.png"], "absent/grid.png: cannot be written; a file in a folder that exists is accepted"),
        (["-o", "grid.jpg"], "grid.jpg: a file that ends in .png is accepted"),
        (
            ["--root", "elsewhere"],
            "elsewhere/params.yaml: absent; run in the repository, or name its folder with --root",
        ),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(root, capsys, tmp_path, words, message):
    assert refused(capsys, "sample", "--root", str(root), "-o", "grid.png", *words) == message
    assert list(tmp_path.iterdir()) == []


def test_untrained_models_say_what_trains_them(root, capsys, tmp_path, picture):
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "params.yaml").write_bytes((root / "params.yaml").read_bytes())
    absent = f"{bare}/artifacts/vae/weights/seed-0.safetensors"
    expected = f"{absent}: no trained weights of vae; `make reproduce` trains the models"
    assert refused(capsys, "sample", "--root", str(bare), "-o", "grid.png") == expected
    assert refused(capsys, "reconstruct", str(picture), "--root", str(bare), "-o", "pairs.png") == expected
    weights = bare / "artifacts/vae/weights"
    weights.mkdir(parents=True)
    (weights / "seed-0.safetensors").write_bytes((root / "artifacts/vae/weights/seed-0.safetensors").read_bytes())
    assert "no trained priors of vae; `make reproduce`" in refused(capsys, "sample", "--root", str(bare), "-o", "g.png")
    said = refused(capsys, "sample", "--root", str(root), "-o", "grid.png", "--trained", "7")
    assert said.endswith("seed-7.safetensors: no trained weights of vae; trained are seeds 0, 1")


def test_weights_of_other_params_are_one_line(root, capsys, tmp_path):
    other = tmp_path / "other"
    (other / "artifacts").mkdir(parents=True)
    YAML(typ="safe", pure=True).dump(tiny_tree(network={"width": 17}), other / "params.yaml")
    (other / "artifacts/vae").symlink_to(root / "artifacts/vae")
    assert "does not hold the weights of models.vae" in refused(capsys, "sample", "--root", str(other), "-o", "g.png")
    priors = tiny_tree(prior={"vae": {"flow": {"width": 9}}})
    YAML(typ="safe", pure=True).dump(priors, other / "params.yaml")
    assert "does not hold the priors of models.vae" in refused(capsys, "sample", "--root", str(other), "-o", "g.png")


def test_a_picture_that_cannot_be_read_is_named(root, capsys):
    Path("notes.png").write_text("no picture")
    for name in ("notes.png", "absent.png"):
        said = refused(capsys, "reconstruct", name, "--root", str(root), "-o", "pairs.png")
        assert said.startswith(f"{name}: ")
        assert said.endswith("a picture such as a PNG or JPEG is accepted")
    assert not Path("pairs.png").exists()


def test_a_picture_is_not_written_over(root, capsys, picture):
    before = picture.read_bytes()
    said = refused(capsys, "reconstruct", "digit.png", "--root", str(root), "-o", str(picture))
    assert said == f"{picture}: is one of the pictures; another file is accepted"
    assert picture.read_bytes() == before


def test_a_write_that_fails_leaves_the_old_picture(root, capsys, monkeypatch):
    before = sample(root, "--n", "4")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("randomz.files.os.fsync", full)
    said = refused(capsys, "sample", "--root", str(root), "-o", "grid.png", "--n", "9")
    assert "No space left on device" in said
    assert Path("grid.png").read_bytes() == before
    assert [path.name for path in Path().iterdir()] == ["grid.png"]


@pytest.mark.parametrize("count", ["0", "-1", "10001", "many"])
def test_a_number_out_of_range_is_refused(capsys, count):
    with pytest.raises(SystemExit) as ended:
        main(["sample", "-o", "grid.png", "--n", count])
    assert ended.value.code == 2
    assert "a number from 1 to 10000 is accepted" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--help"], ["sample", "--help"], ["reconstruct", "--help"]])
def test_help_explains_itself(capsys, words):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert all(text in out for text in (["make reproduce"] if len(words) == 1 else ["--model", "--trained", "--root"]))


def test_the_project_installs_the_command():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = scripts["randomz"].partition(":")
    assert getattr(import_module(module), function) is main


def test_help_does_not_wait_for_torch():
    code = "import sys; import randomz.cli; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
