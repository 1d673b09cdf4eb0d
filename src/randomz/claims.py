"""What the comparison claims, each decided by a rule on the metrics tree, never by hand.

A comparative claim holds only where 95 % intervals over seeds separate. Two figures of one model are of the same
weights at each seed, so they are compared seed by seed: the interval is that of their ratio or difference, which the
seeds' own ups and downs do not widen. Two models share no weights, so their own intervals have to lie apart. With one
seed there is no interval: means are compared, and the claim says so.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from scipy.special import stdtrit

from randomz.params import ModelConfig, VQVAEConfig

JUNK_RATIO = 100.0  # times the floor: two orders of magnitude, so that coarse details alone are not called junk
JUNK_DIGITS = 0.5  # share of the real digits' rate: junk passes for a digit less than half as often as they do
DIGIT_MAJORITY = 0.5  # digit rate from which "more often than not" is true
GAIN = 3.0  # times below the AE: a difference for the eye, where a merely significant one may be tiny
REPAIR = 10.0  # times below the random z: an order of magnitude, more than another draw of the same kind could give
USED_SHARE = 0.95  # of the codebook's entries: a few rare ones are no collapse
PERPLEXITY_SHARE = 0.6  # of the codebook's entries: most of them carry weight, not a handful
COLLAPSED = 0.05  # sigma(x) over the spread of mu(x): an image's posterior is a point as the latent space goes

ONE_SEED = "means of one seed, no interval"

Tree = Mapping[str, Any]


@dataclass(frozen=True)
class Estimate:
    """A figure over seeds: mean, its 95 % interval (None with one seed) and the value of each seed."""

    mean: float
    low: float | None
    high: float | None
    per_seed: tuple[float, ...]

    @property
    def lowest(self) -> float:
        """The lower end of the interval; the mean where there is none."""
        return self.mean if self.low is None else self.low

    @property
    def highest(self) -> float:
        """The upper end of the interval; the mean where there is none."""
        return self.mean if self.high is None else self.high

    @classmethod
    def over_seeds(cls, values: Sequence[float]) -> "Estimate":
        """The mean of one value a seed, with its 95 % interval by Student's t."""
        mean = math.fsum(values) / len(values)
        if len(values) == 1:
            return cls(mean, None, None, tuple(values))
        degrees = len(values) - 1
        variance = math.fsum((value - mean) ** 2 for value in values) / degrees
        half = float(stdtrit(degrees, 0.975)) * math.sqrt(variance / len(values))
        return cls(mean, mean - half, mean + half, tuple(values))

    @classmethod
    def from_json(cls, node: Tree) -> "Estimate":
        """An estimate out of `{"mean", "low", "high", "per_seed"}`."""
        return cls(node["mean"], node["low"], node["high"], tuple(node["per_seed"]))

    def to_json(self) -> dict[str, Any]:
        """The inverse of `from_json`."""
        return {"mean": self.mean, "low": self.low, "high": self.high, "per_seed": list(self.per_seed)}


@dataclass(frozen=True)
class Claim:
    """A sentence, the figures that decide it (each by its path in the metrics tree) and the verdict.

    `holds` is None where params.yaml has no model that the claim is about, or its experiment has no result.
    """

    id: str
    statement: str
    evidence: Mapping[str, float | Estimate]
    holds: bool | None

    @property
    def of_one_seed(self) -> bool:
        """Whether means without an interval decided it."""
        return any(isinstance(value, Estimate) and value.low is None for value in self.evidence.values())

    def to_json(self) -> dict[str, Any]:
        """An entry of `claims` in reports/metrics.json; `basis` is there only where there is no interval."""
        evidence = {
            path: value.to_json() if isinstance(value, Estimate) else value for path, value in self.evidence.items()
        }
        claim = {"id": self.id, "statement": self.statement, "evidence": evidence, "holds": self.holds}
        return claim | {"basis": ONE_SEED} if self.of_one_seed else claim


class Evidence:
    """Figures taken from a tree, remembered by their paths.

    What is computed from two of one model is remembered beside them: `a over b` is a ratio, `a less b` a difference.
    """

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.taken: dict[str, float | Estimate] = {}

    def number(self, path: str) -> float:
        """The number at a slash-separated path. Raises ValueError when it is not there."""
        value = float(lookup(self.tree, path))
        self.taken[path] = value
        return value

    def estimate(self, path: str) -> Estimate:
        """The figure over seeds at a slash-separated path. Raises ValueError when it is not there."""
        value = Estimate.from_json(lookup(self.tree, path))
        self.taken[path] = value
        return value

    def sampling(self, model: str, sampler: str, metric: str = "fd_ratio") -> Estimate:
        """A sample-quality figure. Raises ValueError when it is not there."""
        return self.estimate(f"models/{model}/sampling/{sampler}/{metric}")

    def times(self, model: str, above: str, below: str, metric: str = "fd_ratio") -> Estimate:
        """How many times higher a metric is with one sampler of a model than with another, seed by seed.

        The mean is geometric and the interval that of the logarithms. Raises ValueError where a figure is not there or
        not positive.
        """
        figures = [self.sampling(model, sampler, metric) for sampler in (above, below)]
        for sampler, figure in zip((above, below), figures, strict=True):
            if min(figure.per_seed) <= 0:
                path = f"models/{model}/sampling/{sampler}/{metric}"
                raise ValueError(f"metrics: {path} is {min(figure.per_seed)} with a seed; a number > 0 is accepted")
        pairs = zip(*(figure.per_seed for figure in figures), strict=True)
        logs = Estimate.over_seeds([math.log(high / low) for high, low in pairs])
        low, high = (None if end is None else math.exp(end) for end in (logs.low, logs.high))
        ratio = Estimate(math.exp(logs.mean), low, high, tuple(map(math.exp, logs.per_seed)))
        self.taken[f"models/{model}/sampling/{above} over {below}/{metric}"] = ratio
        return ratio

    def rise(self, path: str, after: str, before: str) -> Estimate:
        """By how much one figure of a branch is above another, seed by seed. Raises ValueError as `estimate` does."""
        figures = [self.estimate(f"{path}/{key}") for key in (after, before)]
        pairs = zip(*(figure.per_seed for figure in figures), strict=True)
        difference = Estimate.over_seeds([high - low for high, low in pairs])
        self.taken[f"{path}/{after} less {before}"] = difference
        return difference


def lookup(tree: Tree, path: str) -> Any:  # noqa: ANN401 (a number or a branch)
    """What stands at a slash-separated path. Raises ValueError with the path when nothing does."""
    node: Any = tree
    for key in path.split("/"):
        if not isinstance(node, Mapping) or key not in node:
            raise ValueError(f"metrics: {path} is missing, there is no {key!r}; the evaluate stage writes it")
        node = node[key]
    return node


def model_of_kind(models: Mapping[str, ModelConfig], kind: str) -> str | None:
    """The model that stands for a kind: the one named so, else the first of that kind, else None."""
    names = [name for name, config in models.items() if config.kind == kind]
    return kind if kind in names else next(iter(names), None)


def ae_random_z_is_junk(evidence: Evidence, ae: str) -> bool:
    """N(0, I): fd_ratio of JUNK_RATIO or more, and a digit rate below JUNK_DIGITS of that of real held-out digits."""
    ratio = evidence.sampling(ae, "standard_normal")
    digits = evidence.sampling(ae, "standard_normal", "digit_rate")
    real = evidence.number("floor/digit_rate")
    return ratio.lowest >= JUNK_RATIO and digits.highest < JUNK_DIGITS * real


def ae_needs_a_density(evidence: Evidence, ae: str) -> bool:
    """fd_ratio of N(0, I) is more than REPAIR times that of the mixture fitted to the codes, paired over seeds."""
    return evidence.times(ae, "standard_normal", "gmm").lowest > REPAIR


def vae_random_z_is_a_digit(evidence: Evidence, vae: str, ae: str) -> bool:
    """N(0, I): fd_ratio below a GAIN-th of the AE's, a digit rate above the AE's and of DIGIT_MAJORITY or more.

    A matter of degree: it does not ask that the samples are as good as real digits, only that most are digits.
    """
    ratio = evidence.sampling(vae, "standard_normal")
    ratio_ae = evidence.sampling(ae, "standard_normal")
    digits = evidence.sampling(vae, "standard_normal", "digit_rate")
    digits_ae = evidence.sampling(ae, "standard_normal", "digit_rate")
    better = ratio.highest < ratio_ae.lowest / GAIN and digits.lowest > digits_ae.highest
    return better and digits.lowest >= DIGIT_MAJORITY


def kl_orders_the_latent(evidence: Evidence, vae: str, ae: str) -> bool:
    """The VAE's Frechet distances of N(0, I) and of midpoints between codes are both below the AE's."""
    paths = ("sampling/standard_normal/fd", "latent/fd_interpolation")
    pairs = [[evidence.estimate(f"models/{name}/{path}") for name in (vae, ae)] for path in paths]
    return all(of_vae.highest < of_ae.lowest for of_vae, of_ae in pairs)


def elbo_is_a_lower_bound(evidence: Evidence, vae: str) -> bool:
    """The importance-weighted bound rises from each k to the next, paired over seeds.

    The theorem is about one model, and how the bounds of two seeds differ has no part in it.
    """
    path = f"models/{vae}/kl/bound"
    order = sorted(lookup(evidence.tree, path), key=int)
    rises = [evidence.rise(path, after, before).lowest > 0 for before, after in pairwise(order)]
    return bool(rises) and all(rises)


def vae_without_kl_is_an_ae(evidence: Evidence) -> bool:
    """With beta 0 sigma is below COLLAPSED of the spread of mu, and N(0, I) gives junk as the AE's does.

    The figures are those of the experiment; the rate of real held-out digits is the report's own.
    """
    model = "experiments/vae-without-kl/models/vae"
    deviation = evidence.estimate(f"{model}/kl/posterior_deviation")
    ratio, digits = (
        evidence.estimate(f"{model}/sampling/standard_normal/{metric}") for metric in ("fd_ratio", "digit_rate")
    )
    real = evidence.number("floor/digit_rate")
    return deviation.highest < COLLAPSED and ratio.lowest >= JUNK_RATIO and digits.highest < JUNK_DIGITS * real


def vq_codes_are_used(evidence: Evidence, vqvae: str) -> bool:
    """Usage is USED_SHARE or more, and perplexity PERPLEXITY_SHARE of K or more."""
    usage = evidence.estimate(f"models/{vqvae}/codebook/usage")
    perplexity = evidence.estimate(f"models/{vqvae}/codebook/perplexity")
    size = evidence.number(f"params/models/{vqvae}/codes")
    return usage.lowest >= USED_SHARE and perplexity.lowest >= PERPLEXITY_SHARE * size


def vq_uniform_codes_are_junk(evidence: Evidence, vqvae: str) -> bool:
    """fd_ratio of uniformly drawn codes is JUNK_RATIO or more."""
    return evidence.sampling(vqvae, "uniform").lowest >= JUNK_RATIO


def vq_needs_a_prior(evidence: Evidence, vqvae: str) -> bool:
    """fd_ratio of uniform codes is more than REPAIR times that of the autoregressive prior, paired over seeds.

    And that of position-wise frequencies is above it.
    """
    uniform, position = (evidence.times(vqvae, sampler, "autoregressive") for sampler in ("uniform", "position"))
    return uniform.lowest > REPAIR and position.lowest > 1


@dataclass(frozen=True)
class _Question:
    id: str
    statement: str
    kinds: tuple[str, ...]  # of the models that the rule takes, in its order
    rule: Callable[..., bool]
    experiment: str | None = None  # of experiments.yaml whose result the rule reads


QUESTIONS = (
    _Question(
        "ae-random-z-is-junk",
        f"Decoding z ~ N(0, I) with the autoencoder gives junk: its Fréchet distance is at least {JUNK_RATIO:g} times "
        f"that of real digits, and images pass for digits less than {JUNK_DIGITS:g} times as often as those do.",
        ("ae",),
        ae_random_z_is_junk,
    ),
    _Question(
        "ae-needs-a-density",
        "What the autoencoder lacks is a density: a Gaussian mixture fitted to its codes lowers the Fréchet distance "
        f"of z ~ N(0, I) more than {REPAIR:g} times.",
        ("ae",),
        ae_needs_a_density,
    ),
    _Question(
        "vae-random-z-is-a-digit",
        "Decoding z ~ N(0, I) with the VAE gives a digit, as a matter of degree: at least "
        f"{100 * DIGIT_MAJORITY:g} % pass for one, more than with the autoencoder, at a Fréchet distance more than "
        f"{GAIN:g} times lower.",
        ("vae", "ae"),
        vae_random_z_is_a_digit,
    ),
    _Question(
        "kl-orders-the-latent",
        "The KL term orders the latent space: z ~ N(0, I) and midpoints between codes both decode closer to real "
        "digits with the VAE than with the autoencoder.",
        ("vae", "ae"),
        kl_orders_the_latent,
    ),
    _Question(
        "elbo-is-a-lower-bound",
        "The ELBO is a lower bound on log p(x): importance-weighted bounds start from it at k = 1 and rise with k.",
        ("vae",),
        elbo_is_a_lower_bound,
    ),
    _Question(
        "vae-without-kl-is-an-ae",
        f"A VAE trained without its KL term is an autoencoder: sigma falls below {100 * COLLAPSED:g} % of the spread "
        f"of mu, and z ~ N(0, I) decodes to junk, at least {JUNK_RATIO:g} times the Fréchet distance of real digits "
        f"with less than {JUNK_DIGITS:g} times their digit rate.",
        (),
        vae_without_kl_is_an_ae,
        "vae-without-kl",
    ),
    _Question(
        "vq-codes-are-used",
        f"The VQ-VAE uses its codebook: at least {100 * USED_SHARE:g} % of the entries, with a perplexity of at least "
        f"{100 * PERPLEXITY_SHARE:g} % of their number.",
        ("vqvae",),
        vq_codes_are_used,
    ),
    _Question(
        "vq-uniform-codes-are-junk",
        "Decoding uniformly drawn codes with the VQ-VAE gives junk: its Fréchet distance is at least "
        f"{JUNK_RATIO:g} times that of real digits.",
        ("vqvae",),
        vq_uniform_codes_are_junk,
    ),
    _Question(
        "vq-needs-a-prior",
        "The VQ-VAE needs a prior over its codes: an autoregressive one lowers the Fréchet distance of uniform codes "
        f"more than {REPAIR:g} times, and below that of position-wise frequencies.",
        ("vqvae",),
        vq_needs_a_prior,
    ),
)


def compute_claims(tree: Tree, models: Mapping[str, ModelConfig]) -> list[Claim]:
    """Every claim with its evidence and verdict.

    `tree` has `floor` and `models` as in reports/metrics.json, and may have `experiments` with the results in
    reports/experiments by their names; `models` are the entries of params.yaml. Raises ValueError with the path of a
    figure that a rule needs and the tree lacks.
    """
    sizes = {name: {"codes": config.codes} for name, config in models.items() if isinstance(config, VQVAEConfig)}
    facts = {**tree, "params": {"models": sizes}}
    return [_answer(question, facts, models) for question in QUESTIONS]


def _answer(question: _Question, facts: Tree, models: Mapping[str, ModelConfig]) -> Claim:
    names = [model_of_kind(models, kind) for kind in question.kinds]
    unrun = question.experiment is not None and question.experiment not in facts.get("experiments", {})
    if None in names or unrun:
        return Claim(question.id, question.statement, {}, None)
    evidence = Evidence(facts)
    holds = question.rule(evidence, *names)
    return Claim(question.id, question.statement, evidence.taken, holds)
