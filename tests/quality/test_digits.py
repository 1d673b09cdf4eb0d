from inspect import unwrap
from math import log2

import pytest
import torch
from safetensors.torch import load, save
from sklearn.covariance import ledoit_wolf

from randomz.quality import digits
from randomz.quality.digits import (
    ClassManifolds,
    accepted,
    class_distances,
    class_entropy,
    digit_rate,
    fit_class_manifolds,
    shrunk_covariance,
)
from randomz.seeding import generator

CLASSES, DIMENSION = 4, 6


def draw(key, count=600):
    """Rectified features of `CLASSES` classes, the first feature dead, and their labels."""
    stream = generator("test_digits", key)
    labels = torch.arange(count) % CLASSES
    centres = 6 * torch.eye(CLASSES, DIMENSION).roll(1, dims=1)
    features = (centres[labels] + torch.randn(count, DIMENSION, generator=stream)).relu()
    features[:, 0] = 0
    return features, labels


@pytest.fixture
def manifolds():
    return fit_class_manifolds(*draw(0), draw(1)[0])


@pytest.mark.parametrize("count", [5, 60, 1000])
def test_covariance_is_scikit_learns(count):
    features, _ = draw(0, count)
    expected, _ = ledoit_wolf(features.double().numpy())
    torch.testing.assert_close(shrunk_covariance(features), torch.from_numpy(expected), rtol=1e-10, atol=1e-12)


def test_covariance_of_fewer_samples_than_dimensions_is_invertible():
    features, _ = draw(0, 3)
    assert int(torch.linalg.matrix_rank(features - features.mean(0))) < DIMENSION
    assert float(torch.linalg.eigvalsh(shrunk_covariance(features))[0]) > 1e-3


def test_distance_is_mahalanobis_to_the_nearest_class():
    features, labels = draw(0)
    others, _ = draw(1)
    manifolds = fit_class_manifolds(features, labels, others)
    by_class = []
    for label in range(CLASSES):
        members = features[labels == label].double()
        offset = others.double() - members.mean(0)
        precision = torch.linalg.inv(shrunk_covariance(members))
        by_class.append(torch.einsum("nf,fg,ng->n", offset, precision, offset).sqrt())
    expected = torch.stack(by_class).amin(0)
    torch.testing.assert_close(class_distances(manifolds, others), expected, rtol=1e-5, atol=1e-6)


def test_known_distance():
    manifolds = ClassManifolds(
        torch.tensor([[0.0, 0.0], [10.0, 0.0]]),
        torch.stack([torch.eye(2), torch.diag(torch.tensor([2.0, 1.0]))]),
        2.0,
    )
    features = torch.tensor([[3.0, 4.0], [10.0, 1.5], [9.0, 0.0], [10.0, 2.5]])
    assert class_distances(manifolds, features).tolist() == [5.0, 1.5, 2.0, 2.5]
    assert accepted(manifolds, features).tolist() == [False, True, True, False]
    assert digit_rate(manifolds, features) == 0.5


@pytest.mark.parametrize("step", [1, 4, 100])
def test_accepted_are_those_within_the_threshold(manifolds, step, monkeypatch):
    """Also the one that the threshold is the distance of, and whatever is left out early."""
    monkeypatch.setattr(digits, "STEP", step)
    spread, _ = draw(2)
    features = torch.cat([draw(1)[0], spread * 1.2, spread * 3])
    expected = class_distances(manifolds, features) <= manifolds.threshold
    assert torch.equal(accepted(manifolds, features), expected)
    assert 0.3 < float(expected.double().mean()) < 0.9
    assert digit_rate(manifolds, draw(1)[0]) == 0.95


def test_squared_distances_of_blocks_add_up():
    features, labels = draw(0)
    others, _ = draw(1)
    manifolds = fit_class_manifolds(features, labels, others, blocks=(2, DIMENSION - 2))
    by_class = []
    for label in range(CLASSES):
        squares = torch.zeros(len(others), dtype=torch.float64)
        for block in (slice(0, 2), slice(2, None)):
            members = features[labels == label, block].double()
            offset = others[:, block].double() - members.mean(0)
            squares += ((offset @ torch.linalg.inv(shrunk_covariance(members))) * offset).sum(1)
        by_class.append(squares.sqrt())
    expected = torch.stack(by_class).amin(0)
    torch.testing.assert_close(class_distances(manifolds, others), expected, rtol=1e-5, atol=1e-6)


def test_one_block_is_the_rule_without_blocks(manifolds):
    whole = fit_class_manifolds(*draw(0), draw(1)[0], blocks=(DIMENSION,))
    assert torch.equal(whole.whitening, manifolds.whitening)
    assert whole.threshold == manifolds.threshold


def test_a_second_block_refuses_what_the_first_overlooks():
    (features, labels), (held_out, _), (fresh, _) = draw(0), draw(1), draw(2)
    stream = generator("test_digits haze")
    clean = [torch.cat([x, torch.randn(len(x), 3, generator=stream)], 1) for x in (features, held_out, fresh)]
    manifolds = fit_class_manifolds(clean[0], labels, clean[1], blocks=(DIMENSION, 3))
    assert digit_rate(manifolds, clean[2]) == pytest.approx(0.95, abs=0.03)
    hazy = clean[2] + torch.cat([torch.zeros(DIMENSION), torch.full((3,), 6.0)])
    assert digit_rate(manifolds, hazy) == 0


@pytest.mark.parametrize("blocks", [(), (2, 3), (7,), (0, DIMENSION), (8, -2)])
def test_blocks_that_are_not_the_features_are_refused(blocks):
    features, labels = draw(0)
    with pytest.raises(ValueError, match=r"^blocks must be widths that add up to 6 features, but are \["):
        fit_class_manifolds(features, labels, features, blocks=blocks)


@pytest.mark.parametrize(("accept", "passes"), [(0.95, 570), (0.5, 300), (1.0, 600), (0.001, 1)])
def test_the_accepted_share_of_held_out_images_passes(accept, passes):
    held_out, _ = draw(1)
    manifolds = fit_class_manifolds(*draw(0), held_out, accept=accept)
    assert int(accepted(manifolds, held_out).sum()) == passes


def test_fresh_digits_pass_as_often(manifolds):
    assert digit_rate(manifolds, draw(2, 4000)[0]) == pytest.approx(0.95, abs=0.02)


def test_far_and_in_between_points_are_refused(manifolds):
    fresh, _ = draw(2)
    centres = manifolds.means
    assert digit_rate(manifolds, fresh * 3) == 0
    assert digit_rate(manifolds, (centres[:1] + centres[1:2]) / 2) == 0
    assert digit_rate(manifolds, torch.zeros(5, DIMENSION)) == 0


def test_an_active_feature_that_digits_never_have_is_refused(manifolds):
    fresh, _ = draw(2)
    fresh[:, 0] = 5
    assert digit_rate(manifolds, fresh) == 0


def test_tensors_survive_a_file(manifolds):
    back = ClassManifolds.from_tensors(load(save(manifolds.to_tensors())))
    assert back.threshold == manifolds.threshold
    assert torch.equal(back.means, manifolds.means)
    assert torch.equal(back.whitening, manifolds.whitening)


def test_wrong_tensors_are_refused(manifolds):
    tensors = manifolds.to_tensors()
    with pytest.raises(ValueError, match=r"need the tensors \['means', .*\], but found \['means'\]"):
        ClassManifolds.from_tensors({"means": tensors["means"]})
    with pytest.raises(ValueError, match=r"whitening \[C F F\].*'whitening': \(4, 5, 6\)"):
        ClassManifolds.from_tensors(tensors | {"whitening": tensors["whitening"][:, 1:]})


def test_entropy_of_even_classes_is_log2_of_their_number():
    assert class_entropy(torch.arange(1000) % 10, 10) == pytest.approx(log2(10), rel=1e-14)


def test_entropy_of_one_class_is_0():
    assert class_entropy(torch.full((7,), 3), 10) == 0


def test_entropy_of_uneven_classes():
    assert class_entropy(torch.tensor([0, 0, 1, 2]), 10) == pytest.approx(1.5)


def test_bad_features_are_refused(manifolds):
    features, labels = draw(0)
    broken = features.clone()
    broken[3, 2] = torch.nan
    with pytest.raises(ValueError, match=r"^features must be finite, but 1 of"):
        digit_rate(manifolds, broken)
    with pytest.raises(ValueError, match=r"^features is empty"):
        class_distances(manifolds, features[:0])
    with pytest.raises(ValueError, match=r"^features has 5 feature dimensions, but 6"):
        unwrap(class_distances)(manifolds, features[:, 1:])
    with pytest.raises(ValueError, match=r"^features must be finite"):
        fit_class_manifolds(broken, labels, features)
    with pytest.raises(ValueError, match=r"^held_out_features must be finite"):
        fit_class_manifolds(features, labels, broken)
    with pytest.raises(ValueError, match=r"^features of a class are too few or too alike: 4 give"):
        fit_class_manifolds(torch.zeros(8, 3), torch.arange(8) % 2, torch.zeros(8, 3))


def test_bad_labels_are_refused():
    features, labels = draw(0)
    with pytest.raises(ValueError, match=r"^labels must be one number from 0 up for each of 600"):
        unwrap(fit_class_manifolds)(features, labels[1:], features)
    with pytest.raises(ValueError, match=r"^labels must be one number from 0 up"):
        fit_class_manifolds(features, labels - 1, features)
    with pytest.raises(ValueError, match=r"^every class needs two .* \[150, 150, 150, 0, 150\]"):
        fit_class_manifolds(features, labels + (labels == 3), features)


@pytest.mark.parametrize("accept", [0.0, -0.1, 1.1])
def test_an_accepted_share_out_of_range_is_refused(accept):
    features, labels = draw(0)
    with pytest.raises(ValueError, match=r"^accept must be a share above 0"):
        fit_class_manifolds(features, labels, features, accept=accept)


def test_bad_classes_are_refused():
    with pytest.raises(ValueError, match=r"^classes is empty"):
        class_entropy(torch.zeros(0, dtype=torch.int64), 10)
    with pytest.raises(ValueError, match=r"^classes must lie from 0 to 9, but found 0 to 10"):
        class_entropy(torch.arange(11), 10)
