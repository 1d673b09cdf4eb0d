"""Figures as cells and tables of GitHub's Markdown, and what each metric means in words."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from randomz.claims import Estimate, Tree
from randomz.figures import EN_DASH, interval, number

MEANING: Mapping[str, str] = {
    "squared_error": "squared error of a test image, summed over its pixels",
    "mse": "the same per pixel",
    "pca_mse": "that of a PCA with as many dimensions",
    "psnr": "10 log₁₀(1 / mse), dB",
    "ssim": "structural similarity, 1 for equal images",
    "fd_reconstruction": "Fréchet distance of the reconstructions to the test images",
    "knn_accuracy": "share of test images whose class nearest neighbours in the latent space tell",
    "linear_accuracy": "the same by logistic regression",
    "fd_interpolation": "Fréchet distance of images decoded half way between two codes",
    "path_ratio": "image change along ten steps between two codes, over the straight way; 1 for a cross-fade",
    "largest_step": "largest share of that change in one step; 0.1 where it is even",
    "digit_rate_interpolation": "share of images decoded half way that passes for a digit",
    "kl_nats": "KL(q(z|x) ‖ N(0, I)) of an image, nats".replace("|", "\\|"),
    "active_units": "latent dimensions that depend on the image",
    "posterior_deviation": "sigma over the deviation of mu over images, median dimension: 0 for an autoencoder",
    "aggregate_kl": "lower bound on KL(q(z) ‖ N(0, I)), nats, by the best fitted density",
    "mutual_information": "upper bound on what z tells of x, nats: kl_nats less aggregate_kl",
    "elbo": "lower bound on log p(x), nats, on all test images",
    "bound_images": "test images that the bounds below are of",
    "usage": "share of the codebook's entries that test images use",
    "perplexity": "2 to the entropy: how many entries it would take, were all used alike",
    "entropy_bits": "entropy of the codes on test images, bits a code",
    "prior_bits_per_code": "what a code costs under the autoregressive prior, bits",
    "prior_bits_per_image": "the same for all codes of an image",
    "nominal_bits_per_image": "that under uniform codes",
    "fd": "Fréchet distance to the test images in the judge's features; lower is better",
    "fd_infinite": "fd extrapolated to infinitely many samples",
    "fd_ratio": "fd over that of as many real training images, the floor: 1 is as good as real",
    "kid": "kernel distance, unbiased; 0 for the same distribution",
    "precision": "share of samples among the test images",
    "recall": "share of test images among the samples",
    "density": "precision that counts how many test images are near; about 1 for real digits",
    "coverage": "share of test images with a sample near",
    "digit_rate": "share that passes for a digit, by its distance to the classes",
    "class_entropy": "entropy of the classes, bits: 0 for a single one, 3.32 for ten alike",
    "authenticity": "share that is no near copy of a training image",
}


def words(key: str) -> str:
    """A key of a tree as it stands in a sentence."""
    return key.replace("_", " ")


def cell(value: Any) -> str:  # noqa: ANN401 (a number, or a figure over seeds)
    """A number, or a mean with its interval."""
    return interval(Estimate.from_json(value)) if isinstance(value, Mapping) else number(value)


def plus_minus(node: Tree) -> str:
    """Mean ± half the interval, both with as many decimals as three digits of the mean take."""
    estimate = Estimate.from_json(node)
    mean = number(estimate.mean)
    if estimate.low is None or estimate.high is None:
        return mean
    half = (estimate.high - estimate.low) / 2
    decimals = len(mean.partition(".")[2])
    return f"{mean} ± {number(half)}" if "e" in mean else f"{mean} ± {half:.{decimals}f}"


def glossary(keys: Iterable[str]) -> str:
    """What those of the keys mean that need to be told."""
    return "<sub>" + " · ".join(f"{key}: {MEANING[key]}" for key in keys if key in MEANING) + "</sub>"


def columns(rows: Sequence[Mapping[str, str]]) -> dict[str, None]:
    """The keys of all rows, each where it first stands."""
    return dict.fromkeys(key for row in rows for key in row)


def table_of(rows: Sequence[Mapping[str, str]]) -> str:
    """A table of rows that have the same, or some of the same, columns."""
    header = list(columns(rows))
    return table(header, [[row.get(column, "") for column in header] for row in rows])


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: bool = True) -> str:
    """A table of GitHub's Markdown; all columns but the first are set to the right, where numbers belong."""
    rule = [":--"] + [("--:" if right else ":--")] * (len(header) - 1)
    body = [[text or EN_DASH for text in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *body])
