import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from sklearn.decomposition import PCA
from synthetic import blobs

from randomz.batches import in_chunks
from randomz.linear import gaussian_rate, gaussian_rate_reference, pca_mse, pca_reference, principal


@pytest.fixture(scope="module")
def train():
    return blobs(300, 5)


@pytest.fixture(scope="module")
def reference():
    return blobs(100, 6)


@pytest.fixture(scope="module")
def fitted(train):
    return principal(train.images)


def flat(split):
    return split.images.flatten(1).double().numpy() / 255


def falling(*variances):
    return torch.tensor(variances, dtype=torch.float64)


def test_the_components_are_scikit_learns(train, fitted):
    pca = PCA(10, svd_solver="full").fit(flat(train))
    np.testing.assert_allclose(fitted.mean.numpy(), pca.mean_, atol=1e-6)
    np.testing.assert_allclose(fitted.variances[:10].numpy(), pca.explained_variance_ * 299 / 300, rtol=1e-4)
    cosines = np.abs((pca.components_ * fitted.axes[:, :10].T.numpy()).sum(1))
    np.testing.assert_allclose(cosines, 1, atol=1e-4)


@pytest.mark.parametrize("dimensions", [1, 5, 30])
def test_the_error_of_pca_is_that_of_numpys_svd(train, reference, fitted, dimensions):
    x, y = flat(train), flat(reference)
    axes = np.linalg.svd(x - x.mean(0), full_matrices=False)[2][:dimensions]
    rest = (y - x.mean(0)) - (y - x.mean(0)) @ axes.T @ axes
    assert pca_mse(fitted, reference.images, [dimensions]) == [pytest.approx(np.square(rest).mean(), rel=1e-3)]


def test_all_dimensions_and_more_leave_nothing(reference, fitted):
    none, most, all_, more = pca_mse(fitted, reference.images, [0, 783, 784, 1000])
    variance = np.square(flat(reference) - fitted.mean.double().numpy()).mean()
    assert none == pytest.approx(variance, rel=1e-5)
    assert 0 <= most < 1e-3 * none
    assert all_ == more == 0


def test_chunks_change_nothing(train, reference, fitted, monkeypatch):
    monkeypatch.setattr("randomz.linear.in_chunks", lambda images: in_chunks(images, 33))
    again = principal(train.images)
    torch.testing.assert_close(again.variances, fitted.variances, rtol=1e-4, atol=1e-6)
    assert pca_reference(again, reference) == pytest.approx(pca_reference(fitted, reference), rel=1e-4)


def test_a_white_source_needs_half_the_log_of_what_its_error_falls_by():
    # R(D) = d/2 log2(var / D), D for each of d dimensions
    for bits, each in ((4, 9 / 4), (8, 9 / 16), (1, 9 / math.sqrt(2))):
        assert gaussian_rate(falling(9, 9, 9, 9), [bits]) == [pytest.approx(4 * each)]


def test_a_component_below_the_water_is_left_out():
    # Level 1 is reached with 3 bits for the variance 64; then both sink together.
    assert gaussian_rate(falling(64, 1), [0, 2, 3, 4, 5]) == pytest.approx([65, 5, 2, 1, 0.5])


def test_components_that_never_vary_cost_nothing():
    assert gaussian_rate(falling(4, 1, 0, 0), [3.0]) == gaussian_rate(falling(4, 1), [3.0])


@pytest.mark.parametrize("bits", [0.3, 2.0, 17.0, 90.0])
def test_the_water_level_is_that_of_a_root_search(bits):
    variances = np.sort(np.random.default_rng(0).lognormal(0, 2, 50))[::-1].copy()

    def excess(log_level):
        return 0.5 * np.log2(np.maximum(variances / np.exp(log_level), 1)).sum() - bits

    level = np.exp(brentq(excess, -60, 20, xtol=1e-13))
    found = gaussian_rate(torch.from_numpy(variances), [bits])
    assert found == [pytest.approx(np.minimum(variances, level).sum(), rel=1e-9)]


def test_the_line_of_the_report_falls_from_one_bit_to_two_hundred(train, fitted):
    line = gaussian_rate_reference(fitted)
    assert line["bits"][0] == 1
    assert line["bits"][-1] == pytest.approx(200)
    assert len(line["bits"]) == len(line["mse"]) == 25
    assert line["mse"] == sorted(line["mse"], reverse=True)
    variance = flat(train).var(0).mean()
    assert 0 < line["mse"][-1] < line["mse"][0] < variance


def test_the_error_of_pca_falls_with_every_dimension_that_is_kept(reference, fitted):
    errors = pca_reference(fitted, reference)
    assert list(errors) == ["2", "4", "8", "16", "32", "64"]
    assert list(errors.values()) == sorted(errors.values(), reverse=True)
