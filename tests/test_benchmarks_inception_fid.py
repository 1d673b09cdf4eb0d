import json
import re
import urllib.request

import pytest
import synthetic
import torch
from torch import nn
from torch_fidelity import feature_extractor_inceptionv3, register_feature_extractor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from benchmarks import inception_fid as module
from benchmarks.inception_fid import WeightsError, check_weights, find_weights, inception_fid, main
from randomz.checkpoint import save_tensors
from randomz.priors import build_priors, fit_priors, priors_state
from randomz.quality.frechet import feature_statistics, frechet_distance
from randomz.seeding import generator

CPU = torch.device("cpu")
STAND_IN = "stand-in"
NAME = "weights-inception-2015-12-05-6726825d.pth"


class StandIn(FeatureExtractorBase):
    """Eight random projections of the pixels, from a file, in the place of Inception."""

    def __init__(self, name, features_list, feature_extractor_weights_path=None, **_):
        super().__init__(name, features_list)
        self.weights = nn.Parameter(torch.load(feature_extractor_weights_path, weights_only=True)["projection"])

    @staticmethod
    def get_provided_features_list():
        return ("8",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric):  # noqa: ARG004
        return "8"

    def forward(self, images):
        assert images.dtype == torch.uint8
        assert images.shape[1:] == (3, 28, 28)
        return (images.float().flatten(1) @ self.weights,)


register_feature_extractor(STAND_IN, StandIn)


def layers():
    """What a file of Inception's weights is told by, and the stand-in's own weights beside it."""
    projection = torch.randn(3 * 784, 8, generator=generator("test_inception_fid", 0)) / 255
    return {**dict.fromkeys(module.LAYERS, torch.zeros(1)), "projection": projection}


@pytest.fixture(autouse=True)
def nothing_is_downloaded(monkeypatch, tmp_path):
    """An empty hub cache, and no way to fill it."""

    def refuse(*_, **__):
        raise AssertionError("a download was tried")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for owner, name in (
        (urllib.request, "urlopen"),
        (torch.hub, "download_url_to_file"),
        (feature_extractor_inceptionv3, "load_state_dict_from_url"),
    ):
        monkeypatch.setattr(owner, name, refuse)


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "stand-in.pth"
    torch.save(layers(), path)
    return path


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A folder in which a tiny model of each kind is trained, or so it looks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANDOMZ_DEVICE", "cpu")
    test = synthetic.blobs(300, 30)
    save_tensors(tmp_path / "data/test.safetensors", {"images": test.images, "labels": test.labels.to(torch.uint8)})
    (tmp_path / "params.yaml").write_text(json.dumps(synthetic.tiny_tree()), encoding="utf-8")
    params = synthetic.tiny_params()
    for name in ("vae", "vqvae"):
        model, _ = synthetic.tiny_model(name)
        priors = build_priors(params, name, model, 0)
        plain = {first: priors[first] for first in [next(iter(priors))]}
        codes = model.encode(torch.rand(50, 1, 28, 28, generator=generator("test_inception_fid", 1)), None).detach()
        fit_priors(plain, codes, codes, 0, lambda _: None)
        save_tensors(tmp_path / f"artifacts/{name}/weights/seed-0.safetensors", model.state_dict())
        save_tensors(tmp_path / f"artifacts/{name}/priors/seed-0.safetensors", priors_state(plain))
    return tmp_path


def test_weights_that_are_missing_are_named(capsys, tmp_path):
    assert main(["vae"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert NAME in said
    assert str(tmp_path / "torch" / "hub" / "checkpoints" / NAME) in said
    assert "judge's features, which our own reports use, need none" in said


def test_a_given_file_that_is_missing_is_named(capsys, tmp_path):
    assert main(["vae", "--weights", str(tmp_path / "nowhere.pth")]) == 2
    assert f"looked for {tmp_path / 'nowhere.pth'}" in capsys.readouterr().err


def test_weights_in_the_hub_cache_are_found(tmp_path, weights):
    cached = tmp_path / "torch" / "hub" / "checkpoints" / NAME
    cached.parent.mkdir(parents=True)
    cached.write_bytes(weights.read_bytes())
    assert find_weights(None) == cached
    assert find_weights(weights) == weights


def write_text(path):
    path.write_text("not found\n")


def write_nothing(path):
    path.write_bytes(b"")


def write_other_weights(path):
    torch.save({"layer.weight": torch.zeros(2)}, path)


def write_a_tensor(path):
    torch.save(torch.zeros(2), path)


def write_half(path):
    torch.save(layers(), path)
    path.write_bytes(path.read_bytes()[:5000])


class Planted:
    """An object whose unpickling runs code."""

    def __reduce__(self):
        return (pytest.fail, ("code of the file was run",))


def write_planted(path):
    torch.save(Planted(), path)


@pytest.mark.parametrize(
    "write", [write_text, write_nothing, write_other_weights, write_a_tensor, write_half, write_planted]
)
def test_a_wrong_file_is_refused(capsys, tmp_path, write):
    path = tmp_path / "wrong.pth"
    write(path)
    assert main(["vae", "--weights", str(path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"inception_fid: {path}: ")
    assert said.count("\n") == 1
    assert f"accepted: {NAME} of torch-fidelity" in said


def test_the_figure_is_the_frechet_distance_of_the_features(weights):
    first, second = (synthetic.blobs(200, key).images for key in (31, 32))
    projection = layers()["projection"]
    features = [images.float()[:, None].expand(-1, 3, -1, -1).flatten(1) @ projection for images in (first, second)]
    expected = frechet_distance(*map(feature_statistics, features))
    assert inception_fid(first, second, weights, CPU, STAND_IN) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("model", "plain"), [("vae", "standard_normal"), ("vqvae", "uniform")])
def test_samples_of_a_finished_run(run, weights, capsys, monkeypatch, model, plain):  # noqa: ARG001
    monkeypatch.setattr(module.inception_fid, "__defaults__", (STAND_IN,))
    assert main([model, "--samples", "2049", "--weights", str(weights)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{model} {plain}, seed 0: Inception FID ")
    assert said.endswith("of 2049 samples against 300 test images (stand-in.pth)\n")


def test_test_images_come_through_the_oracle(run, weights, capsys, monkeypatch):  # noqa: ARG001
    monkeypatch.setattr(module.inception_fid, "__defaults__", (STAND_IN,))
    assert main(["vae", "--sampler", "posterior", "--samples", "2049", "--weights", str(weights)]) == 0
    assert "vae posterior, seed 0: Inception FID" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["vae", "--sampler", "dice"], r"--sampler: found 'dice'; vae has standard_normal, .*posterior"),
        (["gan"], "gan"),
        (["ae"], "artifacts/ae/weights/seed-0.safetensors"),
        (["vae", "--seed", "1"], "artifacts/vae/weights/seed-1.safetensors"),
        (["vae", "--sampler", "gaussian"], "artifacts/vae/priors/seed-0.safetensors: does not hold the prior gaussian"),
    ],
)
def test_a_run_that_is_not_there_is_named(run, weights, capsys, arguments, said):  # noqa: ARG001
    assert main([*arguments, "--weights", str(weights)]) == 1
    found = capsys.readouterr().err
    assert found.startswith("inception_fid: ")
    assert re.search(said, found)


def test_too_few_samples_are_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["vae", "--samples", "2048"])
    assert "--samples: found 2048; 2049 or more are accepted" in capsys.readouterr().err


def test_weights_of_the_real_network_are_taken(tmp_path, monkeypatch):
    """Inception itself, of random weights: its file is accepted, and torch-fidelity loads it."""
    network = feature_extractor_inceptionv3.FeatureExtractorInceptionV3
    with monkeypatch.context() as patch:
        patch.setattr(feature_extractor_inceptionv3, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(network, "load_state_dict", lambda *_: None)
        state = network("made", ["64"]).state_dict()
    path = tmp_path / NAME
    torch.save(state, path)
    check_weights(path)
    torch.save({name: each for name, each in state.items() if name != "fc.weight"}, tmp_path / "cut.pth")
    with pytest.raises(WeightsError, match=r"has no fc\.weight"):
        check_weights(tmp_path / "cut.pth")
    extractor = network(module.EXTRACTOR, ["64"], feature_extractor_weights_path=str(path))
    images = torch.stack([module.Colour(synthetic.blobs(2, 33).images)[index] for index in range(2)])
    assert extractor(images)[0].shape == (2, 64)
