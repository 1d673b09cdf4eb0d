from inspect import unwrap

import pytest
import torch
from torch_fidelity import metric_kid
from torchmetrics.image import kid

from randomz.quality import kernel
from randomz.quality.kernel import kernel_distance
from randomz.seeding import generator


def draw(key, count=300, dimension=16, shift=0.0):
    return (torch.randn(count, dimension, generator=generator("test_kernel", key)) + shift).relu()


def direct(x, y):
    """The estimate as its definition says it, one pair at a time in matrices."""
    a, b = x.double(), y.double()
    within = [(v @ v.T / v.shape[1] + 1) ** 3 for v in (a, b)]
    means = [float((k.sum() - k.trace()) / (len(k) * (len(k) - 1))) for k in within]
    return sum(means) - 2 * float(((a @ b.T / a.shape[1] + 1) ** 3).mean())


def test_known_value():
    # Pairs (1, 1) within x, (0, 0) within y and (1, 0) between: 2³ + 1³ - 2 · 1³
    x, y = torch.ones(2, 1), torch.zeros(2, 1)
    assert kernel_distance(x, y) == pytest.approx(7.0, rel=1e-15)


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_agrees_with_torch_fidelity(shift):
    x, y = draw(0).double(), draw(1, shift=shift).double()
    expected = metric_kid.kid_features_to_metric(x, y, kid_subsets=1, kid_subset_size=len(x), verbose=False)
    assert kernel_distance(x, y) == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-9)


def test_agrees_with_torchmetrics():
    x, y = draw(0).double(), draw(1, shift=0.3).double()
    assert kernel_distance(x, y) == pytest.approx(float(kid.poly_mmd(x, y)), rel=1e-10)


def test_sets_of_different_sizes():
    x, y = draw(0, count=50), draw(1, count=70)
    assert kernel_distance(x, y) == pytest.approx(direct(x, y), rel=1e-9)


@pytest.mark.parametrize(("slab", "chunk"), [(1, 1), (3, 7), (16, 59), (17, 60), (40, 1000)])
def test_sizes_of_blocks_change_nothing(monkeypatch, slab, chunk):
    x, y = draw(0, count=60), draw(1, count=50)
    whole = kernel_distance(x, y)
    monkeypatch.setattr(kernel, "SLAB", slab)
    monkeypatch.setattr(kernel, "CHUNK", chunk)
    assert kernel_distance(x, y) == pytest.approx(whole, rel=1e-10)


def test_symmetric_and_blind_to_the_order_of_samples():
    x, y = draw(0), draw(1, shift=0.2)
    shuffled = x[torch.randperm(len(x), generator=generator("test_kernel", 9))]
    assert kernel_distance(y, x) == pytest.approx(kernel_distance(x, y), rel=1e-10)
    assert kernel_distance(shuffled, y) == pytest.approx(kernel_distance(x, y), rel=1e-10)


def test_unbiased():
    """Sets of one distribution are at distance 0 in the mean, also when they are small."""
    distances = torch.tensor([kernel_distance(draw(2 * key, 20), draw(2 * key + 1, 20)) for key in range(300)])
    error = float(distances.std()) / 300**0.5
    assert abs(float(distances.mean())) < 3 * error
    assert float(distances.min()) < 0


def test_grows_with_the_shift():
    x = draw(0)
    distances = [kernel_distance(x, draw(1, shift=shift)) for shift in (0.0, 0.1, 0.3)]
    assert distances == sorted(distances)


def test_bad_input_is_refused():
    x = draw(0)
    with pytest.raises(ValueError, match=r"^y has 1 feature vector, but an unbiased estimate needs two"):
        kernel_distance(x, x[:1])
    with pytest.raises(ValueError, match=r"^x is empty"):
        kernel_distance(x[:0], x)
    with pytest.raises(ValueError, match=r"^y must be finite"):
        kernel_distance(x, torch.full_like(x, torch.nan))
    with pytest.raises(ValueError, match=r"^y has 5 feature dimensions, but 16 are needed"):
        unwrap(kernel_distance)(x, x[:, :5])
