from inspect import unwrap

import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity import metric_fid
from torchmetrics.image import fid

from randomz.quality.frechet import (
    FeatureStatistics,
    feature_statistics,
    frechet_distance,
    frechet_distance_infinite,
)
from randomz.seeding import generator

DIMENSION = 12


def draw(key, count=400, shift=0.0, dimension=DIMENSION):
    """Correlated features, most of the shape of a rectifier's."""
    stream = generator("test_frechet", key)
    mixing = torch.randn(dimension, dimension, generator=stream)
    return (torch.randn(count, dimension, generator=stream) @ mixing + 1 + shift).relu()


def gaussian(mean, covariance):
    return FeatureStatistics(
        torch.tensor(mean, dtype=torch.float64), torch.tensor(covariance, dtype=torch.float64), 1000
    )


def distance(x, y):
    return frechet_distance(feature_statistics(x), feature_statistics(y))


def test_statistics_are_numpys():
    features = draw(0)
    statistics = feature_statistics(features)
    values = features.double().numpy()
    assert statistics.count == 400
    np.testing.assert_allclose(statistics.mean.numpy(), values.mean(0), rtol=1e-14)
    np.testing.assert_allclose(statistics.covariance.numpy(), np.cov(values, rowvar=False), rtol=1e-12)


def test_known_value_of_diagonal_gaussians():
    a = gaussian([0.0, 0.0], [[1.0, 0.0], [0.0, 4.0]])
    b = gaussian([3.0, 4.0], [[9.0, 0.0], [0.0, 16.0]])
    # 3² + 4² for the means, (1 - 3)² + (2 - 4)² for the standard deviations
    assert frechet_distance(a, b) == pytest.approx(33.0, rel=1e-14)


def test_known_value_of_a_rotated_gaussian():
    a = gaussian([0.0, 0.0], [[2.0, 1.0], [1.0, 2.0]])
    b = gaussian([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]])
    # eigenvalues 3 and 1 against 1 and 1
    assert frechet_distance(a, b) == pytest.approx((3**0.5 - 1) ** 2, rel=1e-12)


def test_agrees_with_scipy():
    a, b = feature_statistics(draw(0)), feature_statistics(draw(1, shift=0.5))
    root = scipy.linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy())
    expected = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace()
    assert frechet_distance(a, b) == pytest.approx(float(expected) - 2 * np.trace(root).real, rel=1e-10)


def test_agrees_with_torch_fidelity():
    x, y = draw(0).double(), draw(1).double()
    parts = [metric_fid.fid_features_to_statistics(features) for features in (x, y)]
    expected = metric_fid.fid_statistics_to_metric(*parts, verbose=False)["frechet_inception_distance"]
    assert distance(x, y) == pytest.approx(expected, rel=1e-10)


def test_agrees_with_torchmetrics():
    a, b = feature_statistics(draw(0)), feature_statistics(draw(1))
    expected = fid._compute_fid(a.mean, a.covariance, b.mean, b.covariance)  # noqa: SLF001
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-10)


def test_identical_sets_are_at_no_distance():
    assert 0 <= distance(draw(0), draw(0)) < 1e-10


def test_symmetric_and_blind_to_the_order_of_samples():
    x, y = draw(0), draw(1)
    shuffled = x[torch.randperm(len(x), generator=generator("test_frechet", 9))]
    assert distance(x, y) == pytest.approx(distance(y, x), rel=1e-12)
    assert distance(shuffled, y) == pytest.approx(distance(x, y), rel=1e-12)


def test_grows_with_the_shift():
    x = draw(0)
    distances = [distance(x, x + shift) for shift in (0.1, 0.2, 0.4)]
    assert distances == pytest.approx([DIMENSION * shift**2 for shift in (0.1, 0.2, 0.4)], rel=1e-5)


def test_features_dead_in_both_sets_change_nothing():
    x, y = draw(0), draw(1)
    dead = torch.zeros(400, 5)
    with_dead = distance(torch.cat([dead, x], 1), torch.cat([dead, y], 1))
    assert with_dead == pytest.approx(distance(x, y), rel=1e-12)


def test_features_dead_in_one_set_cost_their_own_variance_and_mean():
    x, y = draw(0), draw(1)
    x[:, 3] = 0
    others = [feature for feature in range(DIMENSION) if feature != 3]
    full = feature_statistics(y)
    # With nothing to match the feature's own spread, tr S_y for it stays, and so does its mean. Its
    # covariance with the other features does not enter, since x has none.
    own = float(full.covariance[3, 3] + full.mean[3] ** 2)
    assert distance(x, y) == pytest.approx(distance(x[:, others], y[:, others]) + own, rel=1e-12)


def test_all_features_dead_in_one_set():
    dead = feature_statistics(torch.zeros(400, DIMENSION))
    other = feature_statistics(draw(1))
    expected = float(other.mean.square().sum() + other.covariance.trace())
    assert frechet_distance(dead, other) == pytest.approx(expected, rel=1e-14)


def test_a_covariance_without_cholesky_factor_is_handled():
    direction = torch.tensor([3.0, 4.0, 0.0], dtype=torch.float64) / 5
    line = FeatureStatistics(torch.zeros(3, dtype=torch.float64), 4 * torch.outer(direction, direction), 10)
    assert int(torch.linalg.cholesky_ex(line.covariance + 0).info) != 0
    isotropic = gaussian([0.0, 0.0, 0.0], np.eye(3).tolist())
    # standard deviations 2, 0, 0 against 1, 1, 1
    assert frechet_distance(line, isotropic) == pytest.approx(1 + 1 + 1, abs=1e-7)


def test_repeated_features_are_handled():
    x, y = draw(0), draw(1)
    twice = distance(torch.cat([x, x], 1), torch.cat([y, y], 1))
    assert twice == pytest.approx(2 * distance(x, y), rel=1e-6)


def test_extrapolation_takes_off_the_bias_of_few_samples():
    stream = generator("test_frechet", 5)
    reference = FeatureStatistics(torch.zeros(16, dtype=torch.float64), torch.eye(16, dtype=torch.float64), 10**9)
    samples = torch.randn(1500, 16, generator=stream)
    plain = frechet_distance(feature_statistics(samples), reference)
    infinite = frechet_distance_infinite(samples, reference, generator=stream)
    # The true distance is 0.
    assert plain > 0.03
    assert abs(infinite) < plain / 3


def test_extrapolation_is_a_least_squares_line_over_the_sizes():
    samples, reference = draw(0), feature_statistics(draw(1))
    sizes = [150, 200, 400]
    value = frechet_distance_infinite(samples, reference, generator=generator("subsets"), sizes=sizes)
    stream = generator("subsets")
    distances = []
    for size in sizes:
        order = torch.randperm(400, generator=stream)
        disjoint = [order[start : start + size] for start in range(0, 400 - size + 1, size)]
        distances.append(
            np.mean([frechet_distance(feature_statistics(samples[subset]), reference) for subset in disjoint])
        )
    assert value == pytest.approx(np.polyfit(1 / np.array(sizes), distances, 1)[1], rel=1e-9)


def test_without_sizes_it_is_a_line_through_all_samples_and_their_halves():
    samples, reference = draw(0), feature_statistics(draw(1))
    value = frechet_distance_infinite(samples, reference, generator=generator("subsets"))
    explicit = frechet_distance_infinite(samples, reference, generator=generator("subsets"), sizes=[400, 200, 200])
    assert value == explicit
    assert value < distance(samples, draw(1))


def test_extrapolation_repeats_with_the_same_stream():
    samples, reference = draw(0), feature_statistics(draw(1))
    first, second, other = (
        frechet_distance_infinite(samples, reference, generator=generator("subsets", key)) for key in (0, 0, 1)
    )
    assert first == second
    assert first != other


@pytest.mark.parametrize("sizes", [[], [100], [100, 100], [12, 100], [100, 401]])
def test_sizes_that_give_no_line_are_refused(sizes):
    reference = feature_statistics(draw(1))
    with pytest.raises(ValueError, match=r"^sizes must be two or more different numbers above 12 .* 400 "):
        frechet_distance_infinite(draw(0), reference, generator=generator("subsets"), sizes=sizes)


def test_too_few_samples_for_a_line_are_refused():
    reference = feature_statistics(draw(1))
    with pytest.raises(ValueError, match=r"too few .*: 25 samples, where 12 feature dimensions need at least 26"):
        frechet_distance_infinite(draw(0, 25), reference, generator=generator("subsets"))
    frechet_distance_infinite(draw(0, 26), reference, generator=generator("subsets"))


def test_fewer_samples_than_dimensions_are_refused():
    with pytest.raises(ValueError, match=r"fewer samples than feature dimensions .* 12 samples, .* at least 13"):
        feature_statistics(draw(0, 12))


def test_features_that_are_not_finite_are_refused():
    features = draw(0)
    features[7, 3] = torch.nan
    with pytest.raises(ValueError, match=r"^features must be finite, but 1 of its 4800"):
        feature_statistics(features)


def test_statistics_that_are_not_finite_are_refused():
    good, bad = gaussian([0.0], [[1.0]]), gaussian([0.0], [[torch.inf]])
    with pytest.raises(ValueError, match=r"^b.covariance must be finite"):
        frechet_distance(good, bad)


def test_different_dimensions_are_refused():
    a, b = feature_statistics(draw(0)), feature_statistics(draw(0, dimension=5))
    with pytest.raises(ValueError, match=r"^a has 12 feature dimensions, but b has 5"):
        frechet_distance(a, b)
    with pytest.raises(ValueError, match=r"^samples has 12 feature dimensions, but 5"):
        unwrap(frechet_distance_infinite)(draw(0), b, generator=generator("subsets"))
