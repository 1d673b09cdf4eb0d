import copy
import math
from dataclasses import replace

import pytest
import torch
from scipy import stats
from synthetic import TEST, TRAIN, VALIDATION, blobs, tiny_params

from randomz.aggregate import aggregate_kl
from randomz.batches import Split, binarised, in_chunks, pixels
from randomz.checkpoint import save_tensors
from randomz.evaluation import as_bytes, describe, evaluate_seed
from randomz.intervals import summarise
from randomz.linear import pca_mse, principal
from randomz.models import load_kind
from randomz.paths import walk
from randomz.priors import build_priors, fit_priors
from randomz.ruler import Ruler
from randomz.seeding import generator
from randomz.trained import decode_all, encode_all, load_model
from randomz.trainer import Data, build_seeded, fit
from randomz.units import bits, per_pixel

KINDS = ("ae", "vae", "vqvae")
DENSITIES = {"standard_normal", "gaussian", "gmm", "flow", "posterior"}
SAMPLERS = {"ae": DENSITIES, "vae": DENSITIES, "vqvae": {"uniform", "position", "autoregressive", "posterior"}}
QUALITY = {
    "fd", "fd_ratio", "fd_infinite", "kid", "precision", "recall", "density", "coverage",
    "digit_rate", "class_entropy", "authenticity",
}  # fmt: skip
LATENT = {
    "knn_accuracy", "linear_accuracy", "fd_interpolation", "digit_rate_interpolation", "path_ratio", "largest_step",
}  # fmt: skip
KL = {
    "kl_nats", "active_units", "posterior_deviation", "aggregate_kl", "mutual_information", "elbo",
    "bound", "bound_standard_error", "bound_images",
}  # fmt: skip
BOUNDS = {"1", "10", "100", "1000"}

pytestmark = pytest.mark.filterwarnings("ignore:lbfgs failed to converge:sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def ruler(tiny_yardstick, tiny_judge):
    return Ruler(tiny_yardstick, tiny_judge, 0.5, blobs(*TRAIN), blobs(*TEST), tiny_params().evaluate, binarise=False)


def params():
    """Enough of a model, and of training, that blobs are reconstructed."""
    return tiny_params(
        network={"width": 32, "encoder_depth": 1, "decoder_depth": 1, "precision": "float32"},
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
        self.priors = build_priors(config, kind, self.model, 0)
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
    assert tree["latent"].keys() == LATENT
    assert tree["sampling"].keys() == SAMPLERS[kind]
    for quality in tree["sampling"].values():
        assert quality.keys() == QUALITY
    if kind == "vae":
        assert tree["kl"].keys() == KL
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
    codes = (2, 2) if kind == "vqvae" else (3,)
    curves = curves | {"path_change": (10,)}
    curves |= {f"codes.{name}": (100, *codes) for name in SAMPLERS[kind]}
    assert {name: tuple(tensor.shape) for name, tensor in pictures.items()} == expected | curves
    assert all(pictures[name].dtype == torch.uint8 for name in expected)
    assert pictures["path_change"].is_floating_point()
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
    for module in ("sections", "trained"):
        name = f"randomz.{module}.in_chunks"
        monkeypatch.setattr(name, lambda images, size=77: in_chunks(images, min(size, 77)))
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
    x = pixels(study.ruler.reference.images)
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


def test_the_elbo_is_minus_reconstruction_and_kl(studies):
    study = studies["vae"]
    x = pixels(study.ruler.reference.images)
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
    images = study.ruler.reference.images[: int(found["bound_images"])]
    assert len(images) == study.ruler.config.bound_images
    few = study.evaluate(reference=Split(images.repeat(20, 1, 1), study.ruler.reference.labels[:400]))
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
    codes = study.model.encode(pixels(study.ruler.reference.images))
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
    codes = encode_all(study.model, study.ruler.reference.images, generator("evaluate posterior", 0))
    images = decode_all(study.model, codes)
    assert torch.equal(study.pictures["samples.posterior"], as_bytes(images[:100]))
    distance = study.ruler.yardstick.distance(study.ruler.judge.features(images))
    assert study.tree["sampling"]["posterior"]["fd"] == pytest.approx(distance)


@pytest.mark.parametrize("kind", KINDS)
def test_midpoints_are_halfway_between_the_codes_of_test_images(studies, kind):
    study = studies[kind]
    codes = encode_all(study.model, study.ruler.reference.images, None)
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
    decoded = as_bytes(decode_all(study.model, encode_all(study.model, study.ruler.reference.images[:12], None)))
    # A grey level of difference may come from the other size of the batch.
    for ends, images in ((walks[:, 0], decoded[:6]), (walks[:, -1], decoded[6:])):
        assert int((ends.int() - images.int()).abs().max()) <= 1


def test_pixels_become_the_nearest_grey_levels():
    images = torch.tensor([0.0, 0.499 / 255, 0.501 / 255, 1.0]).repeat(196).view(1, 1, 28, 28)
    assert as_bytes(images).flatten()[:4].tolist() == [0, 0, 1, 255]
    every = torch.arange(784).remainder(256).to(torch.uint8).view(1, 28, 28)
    assert torch.equal(as_bytes(pixels(every)), every)


@pytest.mark.parametrize(("kind", "size"), [("ae", 3), ("vae", 3), ("vqvae", 16)])
def test_a_description_has_kind_size_every_figure_over_seeds_and_the_linear_reference(studies, kind, size):
    study = studies[kind]
    tree = describe(study.model, kind, [study.tree, study.tree], study.ruler)
    assert tree["kind"] == kind
    assert tree["parameters"] == sum(p.numel() for p in study.model.parameters())
    reference = tree["reconstruction"].pop("pca_mse")
    (expected,) = pca_mse(principal(study.ruler.train.images), study.ruler.reference.images, [size])
    assert reference == pytest.approx(expected)
    assert {key: tree[key] for key in study.tree} == summarise([study.tree] * 2)


@pytest.mark.parametrize("kind", KINDS)
def test_paths_are_between_the_codes_that_midpoints_are_between(studies, kind):
    study = studies[kind]
    codes = encode_all(study.model, study.ruler.reference.images, None)
    others = codes[torch.randperm(len(codes), generator=generator("interpolation", 0))]
    paths = walk(study.model, codes, others)
    assert study.tree["latent"]["path_ratio"] == paths.ratio > 1
    assert study.tree["latent"]["largest_step"] == paths.largest_step > 0.1
    torch.testing.assert_close(study.pictures["path_change"], paths.change.mean(0))


def test_codes_from_a_table_move_in_larger_steps(studies):
    steps = {kind: study.tree["latent"]["largest_step"] for kind, study in studies.items()}
    assert steps["vqvae"] > 1.2 * max(steps["ae"], steps["vae"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_digit_rate_of_midpoints_is_that_of_their_images(studies, kind):
    study = studies[kind]
    codes = encode_all(study.model, study.ruler.reference.images, None)
    others = codes[torch.randperm(len(codes), generator=generator("interpolation", 0))]
    images = decode_all(study.model, study.model.between(codes, others, 0.5))
    quality = study.ruler.yardstick.quality(study.ruler.judge, images)
    assert study.tree["latent"]["digit_rate_interpolation"] == quality["digit_rate"]


def test_the_information_of_a_code_is_what_the_aggregate_leaves_of_the_kl(studies):
    found = studies["vae"].tree["kl"]
    assert found["mutual_information"] == pytest.approx(found["kl_nats"] - found["aggregate_kl"])
    assert found["aggregate_kl"] >= 0
    assert 0 < found["mutual_information"] <= found["kl_nats"]


def test_the_aggregate_is_drawn_from_the_posterior_of_reference_images(studies):
    study = studies["vae"]
    with torch.no_grad():
        posterior = study.model.posterior(pixels(study.ruler.reference.images))
    eps = torch.randn(posterior.mu.shape, generator=generator("aggregate posterior", 0))
    expected = aggregate_kl(posterior.sample(eps), study.priors)
    assert study.tree["kl"]["aggregate_kl"] == pytest.approx(expected, rel=1e-5)
    relative = posterior.sigma.mean(0) / posterior.mu.std(0)
    assert study.tree["kl"]["posterior_deviation"] == pytest.approx(float(relative.quantile(0.5)), rel=1e-5)


def test_the_kl_section_alone_takes_binarised_images(studies):
    study = studies["vae"]
    tree, pictures = study.evaluate(binarise=True)
    for section in ("reconstruction", "latent", "sampling"):
        assert tree[section] == study.tree[section]
    x = pixels(binarised(study.ruler.reference.images, generator("binarise reference")))
    with torch.no_grad():
        kl = study.model.posterior(x).kl()
        output = study.model(x, generator("elbo", 0))
        reconstruction = study.model.likelihood.nll(output.logits, x).double().mean()
    assert tree["kl"]["kl_nats"] == pytest.approx(float(kl.sum(1).double().mean()), rel=1e-5)
    assert tree["kl"]["elbo"] == pytest.approx(-float(reconstruction) - tree["kl"]["kl_nats"], rel=1e-5)
    torch.testing.assert_close(pictures["kl_per_dimension"], kl.mean(0))
    for name in ("kl_nats", "elbo"):
        assert tree["kl"][name] != study.tree["kl"][name]
    assert tree["kl"]["bound"]["1000"] != study.tree["kl"]["bound"]["1000"]


def test_the_oracle_takes_as_many_images_as_there_are(studies):
    study = studies["ae"]
    few = Split(study.ruler.reference.images[:300], study.ruler.reference.labels[:300])
    tree, pictures = study.evaluate(reference=few)
    codes = encode_all(study.model, few.images, generator("evaluate posterior", 0))
    distance = study.ruler.yardstick.distance(study.ruler.judge.features(decode_all(study.model, codes)))
    assert tree["sampling"]["posterior"]["fd"] == pytest.approx(distance)
    assert tree["sampling"]["gmm"] == study.tree["sampling"]["gmm"]
    assert torch.equal(pictures["samples.gmm"], study.pictures["samples.gmm"])


def test_a_codebook_of_one_entry_is_said_to_be_one(studies):
    study = studies["vqvae"]
    codebook = study.model.quantiser.codebook
    before = codebook.clone()
    try:
        codebook.copy_(before[:1].expand_as(before))
        tree, _ = study.evaluate()
    finally:
        codebook.copy_(before)
    assert tree["codebook"]["usage"] == 1 / 16
    assert tree["codebook"]["perplexity"] == 1
    assert tree["codebook"]["entropy_bits"] == 0
    assert tree["latent"]["path_ratio"] == tree["latent"]["largest_step"] == 0  # which no path has
    for quality in tree["sampling"].values():
        assert quality["recall"] == quality["class_entropy"] == 0
    assert all(math.isfinite(value) for value in leaves(tree).values())


def test_fewer_samples_than_feature_dimensions_are_refused_by_their_sampler(studies):
    study = studies["ae"]
    config = study.ruler.config.model_copy(update={"samples": 100})
    with pytest.raises(ValueError, match=r"^sampler standard_normal: .* fewer samples than feature dimensions .* 100 "):
        study.evaluate(config=config)


def test_a_prior_that_is_not_finite_is_refused_by_its_name(studies):
    study = studies["ae"]
    priors = study.priors | {"gmm": copy.deepcopy(study.priors["gmm"])}
    priors["gmm"].weights[0] = torch.nan
    with pytest.raises(ValueError, match=r"^sampler gmm: the fitted weights must be finite, but 1 of "):
        evaluate_seed(study.model, "ae", priors, study.ruler, 0)


def test_random_z_that_is_not_finite_is_refused_by_its_sampler(studies, monkeypatch):
    study = studies["vae"]
    broken = torch.zeros(500, 3)
    broken[7, 1] = torch.inf
    monkeypatch.setattr(study.priors["gaussian"], "sample", lambda *_: broken)
    with pytest.raises(ValueError, match=r"^sampler gaussian: random z must be finite, but 1 of its 1500 values"):
        study.evaluate()


def test_samples_that_are_no_pixels_are_refused_by_their_sampler(studies, monkeypatch):
    study, decode = studies["ae"], studies["ae"].model.decode
    last = study.priors["gmm"].sample(500, generator("sample gmm", 0))[-1]

    def broken(codes):
        return decode(codes) / (codes != last).any(1).view(-1, 1, 1, 1)

    monkeypatch.setattr(study.model, "decode", broken)
    with pytest.raises(ValueError, match=r"^sampler gmm: judge: 1 of 500 images hold NaN or pixels outside \[0, 1\]"):
        study.evaluate()


@pytest.mark.parametrize("kind", KINDS)
def test_reconstructions_that_are_no_pixels_are_refused(studies, kind, monkeypatch):
    study = studies[kind]
    monkeypatch.setattr(study.model, "decode", lambda codes: torch.full((len(codes), 1, 28, 28), math.nan))
    with pytest.raises(ValueError, match=r"^reconstruction: judge: 500 of 500 images hold NaN"):
        study.evaluate()


def test_a_figure_that_is_no_number_is_refused_by_its_name(studies, monkeypatch):
    monkeypatch.setattr("randomz.sections.posterior_deviation", lambda _: math.nan)
    with pytest.raises(ValueError, match=r"^kl.posterior_deviation is nan; a finite figure is accepted$"):
        studies["vae"].evaluate()


def test_weights_that_are_not_finite_are_refused_by_their_file(studies, tmp_path):
    state = {key: tensor.clone() for key, tensor in studies["ae"].model.state_dict().items()}
    state["decoder.stack.0.bias"][2] = torch.nan
    save_tensors(tmp_path / "weights", state)
    with pytest.raises(ValueError, match=r"weights: decoder.stack.0.bias of models.ae holds NaN or infinity"):
        load_model(params(), "ae", tmp_path / "weights", torch.device("cpu"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_comes_back(studies, kind, tmp_path):
    study = studies[kind]
    save_tensors(tmp_path / "weights", study.model.state_dict())
    loaded = load_model(params(), kind, tmp_path / "weights", torch.device("cpu"))
    images = study.ruler.reference.images[:20]
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
