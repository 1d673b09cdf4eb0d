import json
import math

import numpy as np
import pytest
from fabricated import make_params, metrics, over_seeds, quality
from scipy import stats

from randomz.claims import ONE_SEED, QUESTIONS, Claim, Estimate, compute_claims, lookup, model_of_kind

IDS = [
    "ae-random-z-is-junk",
    "ae-needs-a-density",
    "vae-random-z-is-a-digit",
    "kl-orders-the-latent",
    "elbo-is-a-lower-bound",
    "vae-without-kl-is-an-ae",
    "vq-codes-are-used",
    "vq-uniform-codes-are-junk",
    "vq-needs-a-prior",
]


def interval(mean, low, high):
    mean, low, high = float(mean), float(low), float(high)
    return {"mean": mean, "low": low, "high": high, "per_seed": [low, mean, high]}


WITHOUT_KL = "experiments/vae-without-kl/models/vae"


def without_kl(seeds):
    "The result of the experiment of that name: an AE's samples, and a sigma of next to nothing."
    model = metrics("vae", seeds)
    model["kl"]["posterior_deviation"] = over_seeds(0.001, seeds)
    model["sampling"]["standard_normal"] = {
        name: over_seeds(value, seeds) for name, value in {"fd_ratio": 1500.0, **quality(1500.0)}.items()
    }
    return {"name": "vae-without-kl", "models": {"vae": model}}


def make_tree(models=("ae", "vae", "vqvae"), seeds=3):
    "A tree of which every claim is true."
    params = make_params(models, range(seeds))
    tree = {
        "floor": quality(1.0),
        "models": {name: metrics(config.kind, seeds) for name, config in params.models.items()},
        "experiments": {"vae-without-kl": without_kl(seeds)},
    }
    for name, config in params.models.items():
        rate = {"ae": 0.1, "vae": 0.7, "vqvae": 0.2}[config.kind]
        for sampler in tree["models"][name]["sampling"].values():
            sampler["digit_rate"] = over_seeds(rate, seeds)
    return tree, params.models


def put(tree, path, value):
    *parents, last = path.split("/")
    lookup(tree, "/".join(parents))[last] = value


def verdicts(tree, models):
    return {claim.id: claim.holds for claim in compute_claims(tree, models)}


def test_every_claim_can_hold():
    tree, models = make_tree()
    assert list(verdicts(tree, models)) == IDS
    assert all(verdict is True for verdict in verdicts(tree, models).values())


FALSIFIED = [
    # The second of each group is an interval that reaches over the threshold, with a mean on the right side of it.
    ("ae-random-z-is-junk", "models/ae/sampling/standard_normal/fd_ratio", (99, 98, 99.9)),
    ("ae-random-z-is-junk", "models/ae/sampling/standard_normal/fd_ratio", (1500, 99.9, 3000)),
    ("ae-random-z-is-junk", "models/ae/sampling/standard_normal/digit_rate", (0.6, 0.59, 0.61)),
    ("ae-random-z-is-junk", "models/ae/sampling/standard_normal/digit_rate", (0.3, 0.1, 0.5)),
    ("ae-needs-a-density", "models/ae/sampling/gmm/fd_ratio", (200, 190, 210)),
    ("ae-needs-a-density", "models/ae/sampling/gmm/fd_ratio", (100, 40, 160)),
    ("ae-needs-a-density", "models/ae/sampling/standard_normal/fd_ratio", (1500, 30, 2970)),
    ("vae-random-z-is-a-digit", "models/vae/sampling/standard_normal/fd_ratio", (600, 590, 610)),
    ("vae-random-z-is-a-digit", "models/vae/sampling/standard_normal/fd_ratio", (400, 300, 500)),
    ("vae-random-z-is-a-digit", "models/ae/sampling/standard_normal/fd_ratio", (1500, 100, 2900)),
    ("vae-random-z-is-a-digit", "models/vae/sampling/standard_normal/digit_rate", (0.4, 0.39, 0.41)),
    ("vae-random-z-is-a-digit", "models/vae/sampling/standard_normal/digit_rate", (0.6, 0.49, 0.71)),
    ("vae-random-z-is-a-digit", "models/ae/sampling/standard_normal/digit_rate", (0.6, 0.4, 0.8)),
    ("kl-orders-the-latent", "models/vae/sampling/standard_normal/fd", (4000, 3900, 4100)),
    ("kl-orders-the-latent", "models/vae/sampling/standard_normal/fd", (3000, 2000, 4000)),
    ("kl-orders-the-latent", "models/vae/latent/fd_interpolation", (170, 169, 171)),
    ("kl-orders-the-latent", "models/ae/latent/fd_interpolation", (160, 70, 250)),
    ("elbo-is-a-lower-bound", "models/vae/kl/bound/100", (-102, -103, -101)),
    ("vae-without-kl-is-an-ae", f"{WITHOUT_KL}/kl/posterior_deviation", (0.06, 0.055, 0.065)),
    ("vae-without-kl-is-an-ae", f"{WITHOUT_KL}/kl/posterior_deviation", (0.04, 0.03, 0.05)),
    ("vae-without-kl-is-an-ae", f"{WITHOUT_KL}/sampling/standard_normal/fd_ratio", (99, 98, 99.9)),
    ("vae-without-kl-is-an-ae", f"{WITHOUT_KL}/sampling/standard_normal/fd_ratio", (500, 99.9, 900)),
    ("vae-without-kl-is-an-ae", f"{WITHOUT_KL}/sampling/standard_normal/digit_rate", (0.6, 0.59, 0.61)),
    ("vae-without-kl-is-an-ae", f"{WITHOUT_KL}/sampling/standard_normal/digit_rate", (0.3, 0.1, 0.5)),
    ("vq-codes-are-used", "models/vqvae/codebook/usage", (0.94, 0.93, 0.95)),
    ("vq-codes-are-used", "models/vqvae/codebook/usage", (0.96, 0.94, 0.98)),
    ("vq-codes-are-used", "models/vqvae/codebook/perplexity", (150, 149, 151)),
    ("vq-codes-are-used", "models/vqvae/codebook/perplexity", (200, 150, 250)),
    ("vq-uniform-codes-are-junk", "models/vqvae/sampling/uniform/fd_ratio", (99, 98, 99.9)),
    ("vq-uniform-codes-are-junk", "models/vqvae/sampling/uniform/fd_ratio", (440, 99.9, 780)),
    ("vq-needs-a-prior", "models/vqvae/sampling/autoregressive/fd_ratio", (45, 44.9, 45.1)),
    ("vq-needs-a-prior", "models/vqvae/sampling/autoregressive/fd_ratio", (30, 10, 50)),
    ("vq-needs-a-prior", "models/vqvae/sampling/position/fd_ratio", (12, 11.9, 12.1)),
    ("vq-needs-a-prior", "models/vqvae/sampling/position/fd_ratio", (20, 14, 26)),
]


@pytest.mark.parametrize(("claim", "path", "values"), FALSIFIED)
def test_a_figure_on_the_wrong_side_or_an_overlap_makes_a_claim_false(claim, path, values):
    tree, models = make_tree()
    put(tree, path, interval(*values))
    assert verdicts(tree, models)[claim] is False


def test_the_digit_rate_of_junk_is_held_against_that_of_real_digits():
    tree, models = make_tree()
    put(tree, "floor/digit_rate", 0.05)
    answers = verdicts(tree, models)
    assert answers["ae-random-z-is-junk"] is False
    assert answers["vae-without-kl-is-an-ae"] is False


def test_without_the_result_of_its_experiment_a_claim_is_open():
    tree, models = make_tree()
    question = next(question for question in QUESTIONS if question.id == "vae-without-kl-is-an-ae")
    expected = Claim(question.id, question.statement, {}, None)
    del tree["experiments"]["vae-without-kl"]
    assert expected in compute_claims(tree, models)
    del tree["experiments"]
    assert expected in compute_claims(tree, models)


def test_an_experiment_is_asked_whatever_models_there_are():
    tree, models = make_tree(("vqvae",))
    assert verdicts(tree, models)["vae-without-kl-is-an-ae"] is True


def test_a_larger_codebook_asks_for_more_perplexity():
    tree, models = make_tree()
    larger = {**models, "vqvae": models["vqvae"].model_copy(update={"codes": 512})}
    assert verdicts(tree, larger)["vq-codes-are-used"] is False


def test_an_interval_that_starts_at_a_limit_is_enough():
    tree, models = make_tree()
    put(tree, "models/vqvae/sampling/uniform/fd_ratio", interval(150, 100, 200))
    put(tree, "models/vqvae/codebook/usage", interval(0.97, 0.95, 0.99))
    put(tree, "models/vqvae/codebook/perplexity", interval(200, 0.6 * 256, 250))
    answers = verdicts(tree, models)
    assert answers["vq-uniform-codes-are-junk"]
    assert answers["vq-codes-are-used"]


def test_bounds_are_compared_seed_by_seed():
    tree, models = make_tree()
    # Seeds far apart, so that intervals overlap, yet each rises.
    rising = {k: interval(-100 + step, -130 + step, -70 + step) for step, k in enumerate(["1", "10", "100", "1000"])}
    put(tree, "models/vae/kl/bound", rising)
    assert verdicts(tree, models)["elbo-is-a-lower-bound"] is True
    # The means rise, one seed falls.
    rising["1000"] = {**rising["1000"], "per_seed": [-128.5, -96.9, -60.0]}
    assert verdicts(tree, models)["elbo-is-a-lower-bound"] is False


def test_bounds_are_ordered_by_number_and_one_alone_shows_nothing():
    tree, models = make_tree()
    put(tree, "models/vae/kl/bound", {"100": over_seeds(-99.0, 3), "5": over_seeds(-101.0, 3)})
    assert verdicts(tree, models)["elbo-is-a-lower-bound"] is True
    put(tree, "models/vae/kl/bound", {"1": over_seeds(-101.0, 3)})
    assert verdicts(tree, models)["elbo-is-a-lower-bound"] is False


@pytest.mark.parametrize("present", [("ae",), ("vae",), ("vqvae",), ("ae", "vae"), ("vae", "vqvae")])
def test_a_claim_without_its_models_is_open(present):
    tree, models = make_tree(present)
    for question, claim in zip(QUESTIONS, compute_claims(tree, models), strict=True):
        if question.experiment or set(question.kinds) <= set(present):
            assert claim.holds is not None
        else:
            assert claim == Claim(question.id, question.statement, {}, None)


def test_the_model_named_like_its_kind_stands_for_it_and_else_the_first():
    models = make_params(("vae-beta4", "vae", "ae-wide", "ae-deep")).models
    assert model_of_kind(models, "vae") == "vae"
    assert model_of_kind(models, "ae") == "ae-wide"
    assert model_of_kind(models, "vqvae") is None
    misnamed = {"ae": models["vae"], "plain": models["ae-wide"]}
    assert model_of_kind(misnamed, "ae") == "plain"


def per_seed(*values):
    return Estimate.over_seeds([float(value) for value in values]).to_json()


def test_two_samplers_of_a_model_are_compared_seed_by_seed():
    tree, models = make_tree()
    # Seeds far apart, so that the figures' own intervals overlap, yet each is improved twelve times.
    put(tree, "models/ae/sampling/standard_normal/fd_ratio", per_seed(120, 600, 2400))
    put(tree, "models/ae/sampling/gmm/fd_ratio", per_seed(10, 50, 200))
    assert verdicts(tree, models)["ae-needs-a-density"] is True
    put(tree, "models/vqvae/sampling/uniform/fd_ratio", per_seed(110, 220, 440))
    put(tree, "models/vqvae/sampling/position/fd_ratio", per_seed(11, 22, 44))
    put(tree, "models/vqvae/sampling/autoregressive/fd_ratio", per_seed(10, 20, 40))
    assert verdicts(tree, models)["vq-needs-a-prior"] is True
    # The same figures, as good on the average, but of other seeds.
    put(tree, "models/ae/sampling/gmm/fd_ratio", per_seed(50, 200, 10))
    put(tree, "models/vqvae/sampling/autoregressive/fd_ratio", per_seed(20, 40, 10))
    answers = verdicts(tree, models)
    assert answers["ae-needs-a-density"] is False
    assert answers["vq-needs-a-prior"] is False


def test_the_deciding_ratio_is_evidence():
    tree, models = make_tree()
    put(tree, "models/ae/sampling/standard_normal/fd_ratio", per_seed(1000, 2000, 4000))
    put(tree, "models/ae/sampling/gmm/fd_ratio", per_seed(10, 20, 10))
    claim = next(claim for claim in compute_claims(tree, models) if claim.id == "ae-needs-a-density")
    ratio = claim.evidence["models/ae/sampling/standard_normal over gmm/fd_ratio"]
    assert ratio.per_seed == pytest.approx((100, 100, 400))
    assert ratio.mean == pytest.approx((100 * 100 * 400) ** (1 / 3))
    logs = stats.ttest_1samp(np.log(ratio.per_seed), 0).confidence_interval(0.95)
    assert (ratio.low, ratio.high) == pytest.approx((math.exp(logs.low), math.exp(logs.high)))


def test_a_ratio_asks_for_positive_figures():
    tree, models = make_tree()
    put(tree, "models/ae/sampling/gmm/fd_ratio", per_seed(3, 0, 4))
    with pytest.raises(ValueError, match=r"models/ae/sampling/gmm/fd_ratio is 0\.0 with a seed; a number > 0 is"):
        compute_claims(tree, models)


def test_an_interval_over_seeds_is_that_of_students_t():
    values = [3.0, 4.5, 4.0, 7.25]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = Estimate.over_seeds(values)
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), expected.low, expected.high))
    assert Estimate.over_seeds([2.5]) == Estimate(2.5, None, None, (2.5,))


def test_evidence_is_what_stands_in_the_tree():
    tree, models = make_tree(("ae-wide", "vae-beta4", "vqvae"))
    paths = set()
    for claim in compute_claims(tree, models):
        assert claim.evidence
        for path, value in claim.evidence.items():
            paths.add(path)
            if path == "params/models/vqvae/codes":
                assert value == 256
            elif " over " in path or " less " in path:
                assert computed(tree, path) == pytest.approx(value.per_seed)
            else:
                assert lookup(tree, path) == (value.to_json() if isinstance(value, Estimate) else value)
    assert "models/ae-wide/sampling/standard_normal/fd_ratio" in paths
    assert "models/vae-beta4/latent/fd_interpolation" in paths


def computed(tree, path):
    "What a path of two figures stands for, seed by seed."
    start, end = path.rsplit("/", 1) if " over " in path else (path, "")
    branch, pair = start.rsplit("/", 1)
    names = pair.split(" over " if end else " less ")
    first, second = (lookup(tree, "/".join(filter(None, (branch, name, end))))["per_seed"] for name in names)
    return [a / b if end else a - b for a, b in zip(first, second, strict=True)]


def test_with_one_seed_means_are_compared_and_the_claim_says_so():
    tree, models = make_tree(seeds=1)
    claims = [claim.to_json() for claim in compute_claims(tree, models)]
    assert [claim["holds"] for claim in claims] == [True] * len(IDS)
    assert {claim["basis"] for claim in claims} == {ONE_SEED}
    put(tree, "models/vqvae/sampling/position/fd_ratio", over_seeds(13.0, 1))
    assert verdicts(tree, models)["vq-needs-a-prior"] is False


def test_with_more_seeds_or_no_model_there_is_no_basis():
    tree, models = make_tree(("ae",))
    claims = [claim.to_json() for claim in compute_claims(tree, models)]
    assert {tuple(claim) for claim in claims} == {("id", "statement", "evidence", "holds")}
    assert json.loads(json.dumps(claims)) == claims


def test_a_missing_figure_is_named():
    tree, models = make_tree()
    del tree["models"]["ae"]["sampling"]["gmm"]
    with pytest.raises(ValueError, match=r"models/ae/sampling/gmm/fd_ratio is missing, there is no 'gmm'"):
        compute_claims(tree, models)
