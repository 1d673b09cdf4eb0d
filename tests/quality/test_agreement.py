"""Every quality figure beside that of an independent library, on features as they come: from a judge, or made."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from prdc import compute_prdc
from sklearn.datasets import load_digits
from synthetic import blobs
from torch.nn import functional
from torch_fidelity import metric_fid, metric_kid, metric_prc
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from randomz.batches import pixels
from randomz.judge import load_judge
from randomz.quality.frechet import feature_statistics, frechet_distance
from randomz.quality.images import psnr, ssim
from randomz.quality.kernel import kernel_distance
from randomz.quality.manifold import manifold_metrics
from randomz.seeding import generator
from randomz.yardstick import blur

pytestmark = pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save:UserWarning")
SETS = ["halves", "noisy", "blurred", "few classes", "blobs", "mixture"]
JUDGE = Path(__file__).parents[2] / "judge" / "judge.safetensors"


class Features(torch.nn.Module):
    """The extractor of a library whose inputs are features already."""

    def __init__(self, dimension):
        super().__init__()
        self.num_features = dimension

    def forward(self, features):
        return features


def digits():
    """scikit-learn's 1,797 real digits at the size of MNIST's, and their classes."""
    found = load_digits()
    small = torch.from_numpy(found.images).float()[:, None] / 16
    return functional.interpolate(small, size=28, mode="bilinear").clamp(0, 1), torch.from_numpy(found.target)


@pytest.fixture(scope="module")
def judged():
    """Judge features of real digits, good and ruined, by the name of the set: (real, fake), each in float32."""
    judge = load_judge(JUDGE, torch.device("cpu"))
    images, classes = digits()
    real, fake = images[::2], images[1::2]
    noise = torch.randn(fake.shape, generator=generator("test_agreement", 0))
    fakes = {
        "halves": fake,
        "noisy": (fake + 0.3 * noise).clamp(0, 1),
        "blurred": blur(fake),
        "few classes": fake[classes[1::2] < 3],
    }
    of_real = judge.features(real)
    sets = {name: (of_real, judge.features(each)) for name, each in fakes.items()}
    return sets | {"blobs": tuple(judge.features(pixels(blobs(1000, key).images)) for key in (20, 21))}


@pytest.fixture(scope="module", params=SETS)
def pair(request, judged):
    """Features [N 128] and [M 128] in float32, with dead and correlated ones among them."""
    return mixture() if request.param == "mixture" else judged[request.param]


def mixture():
    """Two draws from ten rectified Gaussians, the second a little off."""
    stream = generator("test_agreement", 1)
    centres = torch.randn(10, 128, generator=stream) * 2
    draws = torch.randn(2, 1000, 128, generator=stream) * 0.7
    return tuple((centres[torch.arange(1000) % 10] + draw + 0.02 * key).relu() for key, draw in enumerate(draws))


def equal_sizes(pair):
    size = min(len(features) for features in pair)
    return tuple(features[:size].double() for features in pair)


def test_sets_are_what_they_say(judged):
    """Features of the judge are dead in part and differ between sets, or agreement on them would mean little."""
    distances = {name: frechet_distance(*map(feature_statistics, pair)) for name, pair in judged.items()}
    assert distances["halves"] < min(distances[name] for name in ("noisy", "blurred", "few classes"))
    assert all(0 < float((fake == 0).double().mean()) < 1 for _, fake in judged.values())


def test_frechet_distance_of_torch_fidelity(pair):
    statistics = [metric_fid.fid_features_to_statistics(features) for features in pair]
    expected = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)[metric_fid.KEY_METRIC_FID]
    assert frechet_distance(*map(feature_statistics, pair)) == pytest.approx(expected, rel=1e-4)


def test_frechet_distance_of_torchmetrics(pair):
    metric = FrechetInceptionDistance(Features(128)).set_dtype(torch.float64)
    for features, real in zip(pair, (True, False), strict=True):
        metric.update(features.double(), real=real)
    assert frechet_distance(*map(feature_statistics, pair)) == pytest.approx(float(metric.compute()), rel=1e-4)


def test_kernel_distance_of_torch_fidelity(pair):
    """Equal where one subset is the whole set: then nothing is left to chance."""
    x, y = equal_sizes(pair)
    expected = metric_kid.kid_features_to_metric(x, y, kid_subsets=1, kid_subset_size=len(x), verbose=False)
    assert kernel_distance(x, y) == pytest.approx(expected[metric_kid.KEY_METRIC_KID_MEAN], rel=1e-4)


def test_kernel_distance_of_torchmetrics(pair):
    x, y = equal_sizes(pair)
    assert kernel_distance(x, y) == pytest.approx(float(kid(x, y, subsets=1, size=len(x))[0]), rel=1e-4)


def kid(x, y, subsets, size):
    metric = KernelInceptionDistance(Features(128), subsets=subsets, subset_size=size)
    metric.update(x, real=True)
    metric.update(y, real=False)
    return metric.compute()


def test_kernel_distances_of_the_subsets_of_torch_fidelity(pair):
    """Its mean and spread are those of our figure over the subsets that it draws."""
    x, y = pair
    size, seed = len(y) // 2, 7
    drawn = np.random.RandomState(seed)  # what torch-fidelity draws with
    ours = [kernel_distance(*(each[drawn.choice(len(each), size, replace=False)] for each in (x, y))) for _ in range(4)]
    expected = metric_kid.kid_features_to_metric(
        x.double(), y.double(), kid_subsets=4, kid_subset_size=size, rng_seed=seed, verbose=False
    )
    assert np.mean(ours) == pytest.approx(expected[metric_kid.KEY_METRIC_KID_MEAN], rel=1e-4)
    assert np.std(ours) == pytest.approx(expected[metric_kid.KEY_METRIC_KID_STD], rel=1e-4)


def test_kernel_distances_of_the_subsets_of_torchmetrics(pair):
    x, y = pair
    size = len(y) // 2
    with torch.random.fork_rng(devices=[]):  # torchmetrics draws from torch's own stream
        torch.manual_seed(7)
        expected = kid(x.double(), y.double(), subsets=4, size=size)
        torch.manual_seed(7)
        ours = [kernel_distance(*(each[torch.randperm(len(each))[:size]] for each in (x, y))) for _ in range(4)]
    assert np.mean(ours) == pytest.approx(float(expected[0]), rel=1e-4)
    assert np.std(ours) == pytest.approx(float(expected[1]), rel=1e-4)


@pytest.mark.parametrize("k", [1, 5])
def test_manifold_metrics_of_prdc(pair, k):
    """Equal to the last pair: no two distances of these sets are tied."""
    real, fake = pair
    expected = compute_prdc(real.double().numpy(), fake.double().numpy(), k)
    assert dataclasses.asdict(manifold_metrics(real, fake, k)) == pytest.approx(expected, rel=1e-12, abs=0)


def test_manifold_metrics_of_prdc_where_distances_are_tied(judged):
    """Half of the fakes are copies of reals: a copy of a real's k-th neighbour lies on the edge of its ball.

    We count the edge as inside and prdc does not, so ours are never smaller; once the copies are moved by less than
    any figure could notice, nothing is tied and the two are equal.
    """
    real, fake = judged["halves"]
    fake = torch.cat([fake, real[: len(fake) // 2]])
    ours = dataclasses.asdict(manifold_metrics(real, fake))
    theirs = compute_prdc(real.double().numpy(), fake.double().numpy(), 5)
    assert all(ours[name] >= theirs[name] for name in theirs)
    assert ours["density"] > theirs["density"]
    shift = torch.randn(fake.shape, dtype=torch.float64, generator=generator("test_agreement", 2))
    moved = fake.double() + 1e-6 * shift
    expected = compute_prdc(real.double().numpy(), moved.numpy(), 5)
    assert dataclasses.asdict(manifold_metrics(real.double(), moved)) == pytest.approx(expected, rel=1e-12, abs=0)


def test_precision_and_recall_of_torch_fidelity(pair):
    real, fake = pair
    expected = metric_prc.prc_features_to_metric(fake.double(), real.double(), prc_neighborhood=3, verbose=False)
    ours = manifold_metrics(real, fake, 3)
    # It gives its shares in float32.
    assert ours.precision == pytest.approx(expected[metric_prc.KEY_METRIC_PRECISION], rel=1e-6)
    assert ours.recall == pytest.approx(expected[metric_prc.KEY_METRIC_RECALL], rel=1e-6)


@pytest.mark.parametrize("amount", [0.02, 0.1, 0.5])
def test_psnr_and_ssim_of_torchmetrics(amount):
    images = digits()[0][:50]
    rough = (images + amount * torch.randn(images.shape, generator=generator("test_agreement", 3))).clamp(0, 1)
    ratio = peak_signal_noise_ratio(rough, images, data_range=1.0, reduction="none", dim=(1, 2, 3))
    torch.testing.assert_close(psnr(images, rough), ratio, rtol=1e-5, atol=0)
    alike = structural_similarity_index_measure(
        rough.double(), images.double(), data_range=1.0, reduction="none", sigma=1.5, kernel_size=11
    )
    torch.testing.assert_close(ssim(images, rough).double(), alike, rtol=0, atol=1e-6)
