import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from synthetic import TEST, TRAIN, VALIDATION, blobs, tiny_params

from randomz import evaluation, yardstick
from randomz.batches import in_chunks, pixels
from randomz.checkpoint import save_tensors
from randomz.evaluation import (
    Ruler,
    as_bytes,
    describe,
    evaluate_seed,
    interval,
    pca_mse,
    summarise,
)
from randomz.models import load_kind
from randomz.priors import build_priors, fit_priors
from randomz.seeding import generator
from randomz.trained import decode_all, encode_all, load_model
from randomz.trainer import Data, build_seeded, fit
from randomz.units import bits, per_pixel

KINDS = ("ae", "vae", "vqvae")
DENSITIES = {"standard_normal", "gaussian", "gmm", "posterior"}
SAMPLERS = {"ae": DENSITIES, "vae": DENSITIES, "vqvae": {"uniform", "position", "autoregressive", "posterior"}}
QUALITY = {
    "fd", "fd_ratio", "kid", "precision", "recall", "density", "coverage",
    "digit_rate", "class_entropy", "authenticity",
}  # fmt: skip
BOUNDS = {"1", "10", "100", "1000"}

pytestmark = pytest.mark.filterwarnings("ignore:lbfgs failed to converge:sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def ruler(tiny_yardstick, tiny_judge):
    return Ruler(tiny_yardstick, tiny_judge, 0.5, blobs(*TRAIN), blobs(*TEST), tiny_params().evaluate)


def params():
    """Enough of a model, and of training, that blobs are reconstructed."""
    return tiny_params(
        network={"width": 32, "depth": 1},
        train={"batch_size": 50, "epochs": 20, "learning_rate": 5e-3},
        models={"vqvae": {"codes": 16}},
    )


class Study:
    """A trained model, its priors, and what the evaluation makes of it."""

    def __init__(self, kind, ruler):
        config, file = params(), load_kind(kind)
        self.kind, self.ruler = kind, ruler
        self.model = build_seeded(lambda: file.build(config.model(kind), config.network), 0)
        list(fit(self.model, file.loss, Data(ruler.train, blobs(*VALIDATION)), config.train, 0))
        self.model.eval()
        self.priors = build_priors(config, kind, 0)
        codes = encode_all(self.model, ruler.train.images, generator("test_evaluation"))
        fit_priors(self.priors, codes, codes[:100], 0, lambda _: None)
        self.tree, self.pictures = self.evaluate()

    def evaluate(self, **changes):
        return evaluate_seed(self.model, self.kind, self.priors, replace(self.ruler, **changes), 0)


@pytest.fixture(scope="module")
def studies(ruler):
    return {kind: Study(kind, ruler) for kind in KINDS}


def leaves(tree, path=""):
    """The figures of a tree by their path."""
    if not isinstance(tree, dict):
        return {path: tree}
    return {name: leaf for key, value in tree.items() for name, leaf in leaves(value, f"{path}/{key}").items()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_of_the_contract_is_there(studies, kind):
    tree = studies[kind].tree
    sections = {"ae": set(), "vae": {"kl"}, "vqvae": {"codebook"}}[kind]
    assert tree.keys() == {"reconstruction", "latent", "sampling"} | sections
    assert tree["reconstruction"].keys() == {"squared_error", "mse", "psnr", "ssim", "fd_reconstruction"}
    assert tree["latent"].keys() == {"knn_accuracy", "linear_accuracy", "fd_interpolation"}
    assert tree["sampling"].keys() == SAMPLERS[kind]
    for quality in tree["sampling"].values():
        assert quality.keys() == QUALITY
    if kind == "vae":
        assert tree["kl"].keys() >= {"kl_nats", "active_units", "elbo", "bound", "bound_standard_error"}
        assert tree["kl"]["bound"].keys() == tree["kl"]["bound_standard_error"].keys() == BOUNDS
    if kind == "vqvae":
        assert tree["codebook"].keys() >= {"perplexity", "usage", "entropy_bits", "prior_bits_per_code"}
    for name, value in leaves(tree).items():
        assert type(value) is float, name
        assert math.isfinite(value), name


@pytest.mark.parametrize("kind", KINDS)
def test_every_picture_of_the_contract_is_there(studies, kind):
    pictures = studies[kind].pictures
    expected = {"originals": (20, 28, 28), "reconstructions": (20, 28, 28), "interpolation": (6, 11, 28, 28)}
    expected |= {f"samples.{name}": (100, 28, 28) for name in SAMPLERS[kind]}
    curves = {"ae": {}, "vae": {"kl_per_dimension": (3,)}, "vqvae": {"code_counts": (16,)}}[kind]
    assert {name: tuple(tensor.shape) for name, tensor in pictures.items()} == expected | curves
    assert all(pictures[name].dtype == torch.uint8 for name in expected)
    if kind == "vae":
        assert pictures["kl_per_dimension"].is_floating_point()
    if kind == "vqvae":
        assert pictures["code_counts"].dtype == torch.int64


@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluation_is_the_same_each_time_and_leaves_the_global_stream(studies, kind):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    tree, pictures = studies[kind].evaluate()
    assert torch.equal(torch.get_rng_state(), state)
    assert tree == studies[kind].tree
    assert all(torch.equal(tensor, studies[kind].pictures[name]) for name, tensor in pictures.items())


@pytest.mark.parametrize("kind", KINDS)
def test_figures_do_not_depend_on_the_size_of_a_chunk(studies, kind, monkeypatch):
    for module in (evaluation, yardstick):
        if hasattr(module, "in_chunks"):
            monkeypatch.setattr(module, "in_chunks", lambda images, size=77: in_chunks(images, min(size, 77)))
    monkeypatch.setattr("randomz.judge.CHUNK", 77)
    found, expected = leaves(studies[kind].evaluate()[0]), leaves(studies[kind].tree)
    # Draws from q(z | x) come in chunks from one stream, so that what they go into is another draw.
    drawn = ("/kl/elbo", "/sampling/posterior") if kind == "vae" else ()
    for name, value in expected.items():
        if not name.startswith(drawn):
            assert found[name] == pytest.approx(value, rel=2e-3, abs=5e-3), name


@pytest.mark.parametrize("kind", KINDS)
def test_reconstruction_errors_are_means_over_all_test_images(studies, kind):
    study = studies[kind]
    x = pixels(study.ruler.test.images)
    with torch.no_grad():
        errors = (x - study.model.decode(study.model.encode(x))).double().square()
    found = study.tree["reconstruction"]
    assert found["squared_error"] == pytest.approx(float(errors.sum((1, 2, 3)).mean()), rel=1e-5)
    assert found["mse"] == pytest.approx(float(errors.mean()), rel=1e-5)
    assert found["psnr"] == pytest.approx(float(-10 * errors.mean((1, 2, 3)).log10().mean()), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_codes_tell_the_classes_apart(studies, kind):
    assert studies[kind].tree["latent"]["knn_accuracy"] > 0.8
    assert studies[kind].tree["latent"]["linear_accuracy"] > 0.8


def test_a_probe_of_codes_that_are_the_labels_is_always_right():
    labels = torch.arange(200) % 10
    codes = torch.nn.functional.one_hot(labels).numpy() + 0.0
    for probe in (evaluation.KNeighborsClassifier(), evaluation.LogisticRegression(max_iter=300)):
        assert evaluation._probe(probe, codes, labels, codes[:50], labels[:50]) == 1  # noqa: SLF001
        assert evaluation._probe(probe, codes, labels, codes[:50], labels[1:51]) == 0  # noqa: SLF001


def test_the_elbo_is_minus_reconstruction_and_kl(studies):
    study = studies["vae"]
    x = pixels(study.ruler.test.images)
    with torch.no_grad():
        kl = study.model.posterior(x).kl()
        output = study.model(x, generator("elbo", 0))
        reconstruction = study.model.likelihood.nll(output.logits, x).double().mean()
    found = study.tree["kl"]
    assert found["kl_nats"] == pytest.approx(float(kl.sum(1).double().mean()), rel=1e-5)
    assert found["elbo"] == pytest.approx(-float(reconstruction) - found["kl_nats"], rel=1e-5)
    torch.testing.assert_close(study.pictures["kl_per_dimension"], kl.mean(0))
    assert float(study.pictures["kl_per_dimension"].sum()) == pytest.approx(found["kl_nats"], rel=1e-4)


def test_bounds_rise_from_the_elbo_of_the_images_they_are_taken_on(studies):
    study = studies["vae"]
    found = study.tree["kl"]
    bounds = [found["bound"][k] for k in ("1", "10", "100", "1000")]
    assert bounds == sorted(bounds)
    images = study.ruler.test.images[: int(found["bound_images"])]
    assert len(images) == study.ruler.config.bound_images
    few = study.evaluate(
        test=replace(study.ruler.test, images=images.repeat(10, 1, 1), labels=study.ruler.test.labels[:200])
    )
    assert bounds[0] == pytest.approx(few[0]["kl"]["elbo"], abs=3)


def test_units_are_active_by_the_variance_of_their_mean(studies):
    study = studies["vae"]
    last = study.model.encoder.stack[-1]
    before = last.weight.detach().clone()
    assert study.tree["kl"]["active_units"] == 3
    try:
        with torch.no_grad():
            last.weight[1] = 0
        assert study.evaluate()[0]["kl"]["active_units"] == 2
    finally:
        last.weight.data.copy_(before)


def test_the_codebook_section_is_of_all_test_codes(studies):
    study = studies["vqvae"]
    codes = study.model.encode(pixels(study.ruler.test.images))
    counts = codes.flatten().bincount(minlength=16)
    found = study.tree["codebook"]
    assert study.pictures["code_counts"].tolist() == counts.tolist()
    assert found["usage"] == pytest.approx(int((counts > 0).sum()) / 16)
    entropy = stats.entropy(counts.numpy(), base=2)
    assert found["entropy_bits"] == pytest.approx(entropy)
    assert found["perplexity"] == pytest.approx(2**entropy)
    nats = -float(study.priors["autoregressive"].log_prob(codes).double().mean())
    assert found["prior_bits_per_image"] == pytest.approx(nats / math.log(2))
    assert found["prior_bits_per_code"] == pytest.approx(nats / math.log(2) / 4)
    assert found["nominal_bits_per_image"] == pytest.approx(4 * math.log2(16))


@pytest.mark.parametrize("kind", KINDS)
def test_the_oracle_draws_from_the_posterior_of_test_images(studies, kind):
    study = studies[kind]
    codes = encode_all(study.model, study.ruler.test.images, generator("evaluate posterior", 0))
    images = decode_all(study.model, codes)
    assert torch.equal(study.pictures["samples.posterior"], as_bytes(images[:100]))
    distance = study.ruler.yardstick.distance(study.ruler.judge.features(images))
    assert study.tree["sampling"]["posterior"]["fd"] == pytest.approx(distance)


@pytest.mark.parametrize("kind", KINDS)
def test_midpoints_are_halfway_between_the_codes_of_test_images(studies, kind):
    study = studies[kind]
    codes = encode_all(study.model, study.ruler.test.images, None)
    partners = codes[torch.randperm(len(codes), generator=generator("interpolation", 0))]
    images = decode_all(study.model, study.model.between(codes, partners, 0.5))
    distance = study.ruler.yardstick.distance(study.ruler.judge.features(images))
    assert study.tree["latent"]["fd_interpolation"] == pytest.approx(distance)
    assert distance > study.tree["reconstruction"]["fd_reconstruction"]


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_measured_against_the_test_images_and_the_floor(studies, kind):
    study = studies[kind]
    for name, prior in study.priors.items():
        images = decode_all(study.model, prior.sample(500, generator(f"sample {name}", 0)))
        quality = study.ruler.yardstick.quality(study.ruler.judge, images)
        assert study.tree["sampling"][name] == quality | {"fd_ratio": quality["fd"] / 0.5}
        assert torch.equal(study.pictures[f"samples.{name}"], as_bytes(images[:100]))


@pytest.mark.parametrize(
    ("kind", "order"),
    [
        ("ae", ["posterior", "gmm", "gaussian", "standard_normal"]),
        ("vqvae", ["posterior", "autoregressive", "position", "uniform"]),
    ],
)
def test_the_more_a_sampler_knows_of_the_codes_the_nearer_its_samples_are(studies, kind, order):
    distances = [studies[kind].tree["sampling"][name]["fd"] for name in order]
    assert distances == sorted(distances)
    assert distances[-1] > 3 * distances[0]


@pytest.mark.parametrize("kind", KINDS)
def test_interpolations_go_from_one_test_image_to_another(studies, kind):
    study = studies[kind]
    walks = study.pictures["interpolation"]
    decoded = as_bytes(decode_all(study.model, encode_all(study.model, study.ruler.test.images[:12], None)))
    # A grey level of difference may come from the other size of the batch.
    for ends, images in ((walks[:, 0], decoded[:6]), (walks[:, -1], decoded[6:])):
        assert int((ends.int() - images.int()).abs().max()) <= 1


def test_pixels_become_the_nearest_grey_levels():
    images = torch.tensor([0.0, 0.499 / 255, 0.501 / 255, 1.0]).repeat(196).view(1, 1, 28, 28)
    assert as_bytes(images).flatten()[:4].tolist() == [0, 0, 1, 255]
    every = torch.arange(784).remainder(256).to(torch.uint8).view(1, 28, 28)
    assert torch.equal(as_bytes(pixels(every)), every)


@pytest.mark.parametrize("values", [[1.0, 2.0, 4.0], [0.5, 0.7], [3.0, 3.0, 3.0, 3.5, 2.0]])
def test_intervals_are_scipys(values):
    found = interval(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert found == {
        "mean": pytest.approx(np.mean(values)),
        "low": pytest.approx(low),
        "high": pytest.approx(high),
        "per_seed": values,
    }


def test_one_seed_has_no_interval():
    assert interval([2.5]) == {"mean": 2.5, "low": None, "high": None, "per_seed": [2.5]}


def test_equal_seeds_have_an_interval_of_no_width():
    assert interval([2.0, 2.0]) == {"mean": 2.0, "low": 2.0, "high": 2.0, "per_seed": [2.0, 2.0]}


def test_a_tree_over_seeds_has_an_interval_at_each_leaf():
    trees = [{"a": float(seed), "b": {"c": {"d": 10.0 * seed}}} for seed in range(3)]
    assert summarise(trees) == {"a": interval([0.0, 1.0, 2.0]), "b": {"c": {"d": interval([0.0, 10.0, 20.0])}}}


@pytest.mark.parametrize("dimensions", [1, 5])
def test_the_error_of_pca_is_that_of_numpys_svd(dimensions):
    train, test = blobs(300, 5), blobs(100, 6)
    x, y = (split.images.flatten(1).numpy().astype(np.float64) / 255 for split in (train, test))
    mean = x.mean(0)
    axes = np.linalg.svd(x - mean, full_matrices=False)[2][:dimensions]
    rest = (y - mean) - (y - mean) @ axes.T @ axes
    assert pca_mse(train, test, dimensions) == pytest.approx(np.square(rest).mean(), rel=1e-3)


@pytest.mark.parametrize(("kind", "size"), [("ae", 3), ("vae", 3), ("vqvae", 16)])
def test_a_description_has_kind_size_every_figure_over_seeds_and_the_linear_reference(studies, kind, size):
    study = studies[kind]
    tree = describe(study.model, kind, [study.tree, study.tree], study.ruler)
    assert tree["kind"] == kind
    assert tree["parameters"] == sum(p.numel() for p in study.model.parameters())
    reference = tree["reconstruction"].pop("pca_mse")
    assert reference == pytest.approx(pca_mse(study.ruler.train, study.ruler.test, size))
    assert {key: tree[key] for key in study.tree} == summarise([study.tree] * 2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_comes_back(studies, kind, tmp_path):
    study = studies[kind]
    save_tensors(tmp_path / "weights", study.model.state_dict())
    loaded = load_model(params(), kind, tmp_path / "weights", torch.device("cpu"))
    images = study.ruler.test.images[:20]
    assert not loaded.training
    assert torch.equal(
        decode_all(loaded, encode_all(loaded, images, None)),
        decode_all(study.model, encode_all(study.model, images, None)),
    )


def test_weights_of_another_model_are_refused_by_their_file(studies, tmp_path):
    path = tmp_path / "seed-0.safetensors"
    save_tensors(path, studies["ae"].model.state_dict())
    with pytest.raises(ValueError, match=r"seed-0.safetensors: does not hold the weights of models.vae: "):
        load_model(params(), "vae", path, torch.device("cpu"))


def test_units_are_converted():
    assert bits(math.log(2)) == pytest.approx(1)
    assert bits(3.0) == pytest.approx(4.328085122666891)
    assert per_pixel(784.0) == 1
