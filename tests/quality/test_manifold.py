import dataclasses
from inspect import unwrap

import pytest
import torch
from prdc import compute_prdc

from randomz.quality import cells, manifold
from randomz.quality.manifold import manifold_metrics, nearest_distances, neighbour_radii
from randomz.seeding import generator


def draw(key, count=300, dimension=16, shift=0.0, scale=1.0):
    """Rectified features, in so many dimensions that no two vectors are dead in all of them."""
    noise = torch.randn(count, dimension, generator=generator("test_manifold", key))
    return (noise * scale + shift).relu()


def direct(queries, references, k):
    differences = queries.double()[:, None] - references.double()
    return differences.square().sum(2).sqrt().topk(k, dim=1, largest=False)


@pytest.mark.parametrize(("count", "k"), [(3, 1), (3, 3), (7, 2), (64, 5), (65, 5), (2500, 3), (40, 40)])
def test_neighbours_are_those_of_all_pairs(count, k):
    queries, references = draw(0, 30), draw(1, count)
    distances, indices = nearest_distances(queries, references, k)
    expected = direct(queries, references, k)
    torch.testing.assert_close(distances, expected.values, rtol=1e-12, atol=0)
    assert torch.equal(indices, expected.indices)
    assert indices.dtype == torch.int64


@pytest.mark.parametrize("count", [2, 9, 100])
def test_a_point_is_not_its_own_neighbour(count):
    points = draw(0, count)
    distances, indices = nearest_distances(points, points, 1, exclude_self=True)
    expected = direct(points, points, 2)
    assert not (indices[:, 0] == torch.arange(count)).any()
    torch.testing.assert_close(distances[:, 0], expected.values[:, 1], rtol=1e-12, atol=0)


def test_duplicates_are_neighbours_at_distance_0():
    points = draw(0, 20).repeat(2, 1)
    distances, indices = nearest_distances(points, points, 1, exclude_self=True)
    assert (distances == 0).all()
    assert torch.equal(indices[:, 0], (torch.arange(40) + 20) % 40)


def test_copies_are_at_distance_0_far_from_the_origin():
    references = draw(0, 200) * 1e-3 + 1e3
    distances, indices = nearest_distances(references[50:60], references, 1)
    assert (distances == 0).all()
    assert torch.equal(indices[:, 0], torch.arange(50, 60))


def test_distances_of_near_duplicates_are_precise():
    references = draw(0, 200).double()
    queries = references + 1e-6
    distances, _ = nearest_distances(queries, references, 1)
    torch.testing.assert_close(distances[:, 0], torch.full_like(distances[:, 0], 1e-6 * 4), rtol=1e-6, atol=0)


@pytest.mark.parametrize("spread", [1e-6, 1e-4, 1e-2])
def test_neighbours_that_float32_cannot_tell_apart(spread):
    cluster = draw(0, 150).double() * spread
    references = torch.cat([cluster + 1, cluster.flip(0) - 1])
    distances, indices = nearest_distances(references, references, 3, exclude_self=True)
    expected = direct(references, references, 4)
    torch.testing.assert_close(distances, expected.values[:, 1:], rtol=0, atol=1e-15)
    assert torch.equal(indices, expected.indices[:, 1:])


@pytest.mark.parametrize("scale", [1e-100, 1e-30, 1e30, 1e150])
def test_neighbours_of_features_beyond_the_range_of_float32(scale):
    queries, references = draw(0, 30).double(), draw(1, 300).double()
    expected = direct(queries, references, 3)
    distances, indices = nearest_distances(queries * scale, references * scale, 3)
    assert torch.equal(indices, expected.indices)
    torch.testing.assert_close(distances / scale, expected.values, rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", [1, 40, 1000])
@pytest.mark.parametrize("shift", [0.0, 30.0])
def test_number_of_cells_changes_nothing(size, shift, monkeypatch):
    """Of clusters far apart, so that most cells are ruled out, and of one cloud, where few are."""
    real, fake = (draw(key, 1000) + shift * (torch.arange(1000) % 7)[:, None] for key in (0, 1))
    expected, metrics = direct(fake, real, 3), manifold_metrics(real, fake)
    monkeypatch.setattr(cells, "SIZE", size)
    distances, indices = nearest_distances(fake, real, 3)
    torch.testing.assert_close(distances, expected.values, rtol=1e-12, atol=0)
    assert torch.equal(indices, expected.indices)
    assert manifold_metrics(real, fake) == metrics


@pytest.mark.parametrize("size", [1, 7, 300])
def test_block_size_changes_nothing(size, monkeypatch):
    points = draw(0)
    whole = nearest_distances(points, points, 3, exclude_self=True)
    monkeypatch.setattr(manifold, "CHUNK", size)
    monkeypatch.setattr(cells, "PAIRS", 300 * size)
    parts = nearest_distances(points, points, 3, exclude_self=True)
    assert torch.equal(parts[1], whole[1])
    torch.testing.assert_close(parts[0], whole[0], rtol=1e-14, atol=0)


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.4, 0.7), (0.0, 0.2), (3.0, 1.0)])
def test_agrees_with_prdc(k, shift, scale):
    real, fake = draw(0, 300), draw(1, 250, shift=shift, scale=scale)
    expected = compute_prdc(real.numpy(), fake.numpy(), k)
    assert dataclasses.asdict(manifold_metrics(real, fake, k)) == pytest.approx(expected, rel=1e-12, abs=0)


def test_agrees_with_prdc_over_several_blocks():
    real, fake = draw(0, 2300), draw(1, 600, shift=0.2)
    expected = compute_prdc(real.numpy(), fake.numpy(), 5)
    assert dataclasses.asdict(manifold_metrics(real, fake)) == pytest.approx(expected, rel=1e-12, abs=0)


def test_given_radii_change_nothing():
    real, fake = draw(0), draw(1)
    assert manifold_metrics(real, fake, 3, neighbour_radii(real, 3)) == manifold_metrics(real, fake, 3)


def test_blind_to_the_order_of_samples():
    real, fake = draw(0), draw(1, shift=0.3)
    order = torch.randperm(300, generator=generator("test_manifold", 9))
    assert manifold_metrics(real[order], fake) == manifold_metrics(real, fake)
    assert manifold_metrics(real, fake[order]) == manifold_metrics(real, fake)


def test_known_values_on_a_line():
    real, fake = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[0.5], [4.0], [20.0]])
    # Real radii 1, 1, 4, so the balls are [-1 1], [0 2], [1 9], and hold .5 twice and 4 once. Fake radii
    # 3.5, 3.5, 16: the balls [-3 4], [.5 7.5] and [4 36] hold all reals.
    metrics = manifold_metrics(real, fake, 1)
    assert dataclasses.astuple(metrics) == pytest.approx((2 / 3, 1.0, 3 / 3, 1.0))


def test_a_point_on_the_edge_of_a_ball_is_inside():
    real, fake = torch.tensor([[0.0], [1.0], [-5.0]]), torch.tensor([[2.0], [20.0], [30.0]])
    assert manifold_metrics(real, fake, 1).precision == 1 / 3
    assert compute_prdc(real.numpy(), fake.numpy(), 1)["precision"] == 0


def test_copies_of_duplicated_images_are_inside():
    real = draw(0, 40).repeat(2, 1)
    metrics = manifold_metrics(real, real.clone(), 1)
    assert (metrics.precision, metrics.recall, metrics.coverage) == (1, 1, 1)
    assert compute_prdc(real.numpy(), real.numpy(), 1)["precision"] == 0


def test_a_far_outlier_does_not_blur_the_edges():
    real, fake = draw(0), draw(1, shift=0.3)
    fake[0] = 1e6
    expected = compute_prdc(real.double().numpy(), fake.double().numpy(), 5)
    assert dataclasses.asdict(manifold_metrics(real, fake)) == pytest.approx(expected, rel=1e-12, abs=0)


def test_collapsed_samples_are_precise_and_cover_little():
    metrics = manifold_metrics(draw(0), draw(0)[:1] + draw(1, scale=1e-3))
    assert metrics.precision == 1
    assert metrics.recall < 0.05
    assert metrics.coverage < 0.1


def test_noise_is_not_precise():
    metrics = manifold_metrics(draw(0), draw(1, scale=6))
    assert metrics.precision < 0.1
    assert metrics.density < 0.1


def test_fresh_samples_of_the_same_kind_score_high():
    metrics = manifold_metrics(draw(0), draw(1))
    assert min(dataclasses.astuple(metrics)) > 0.75


def test_bad_neighbours_are_refused():
    points = draw(0, 10)
    with pytest.raises(ValueError, match=r"^k must lie from 1 to 10, .* but it is 11\.$"):
        nearest_distances(points, points, 11)
    with pytest.raises(ValueError, match=r"^k must lie from 1 to 9, .* but it is 10\.$"):
        nearest_distances(points, points, 10, exclude_self=True)
    with pytest.raises(ValueError, match=r"^k must lie from 1 to 10, .* but it is 0\.$"):
        nearest_distances(points, points, 0)
    with pytest.raises(ValueError, match=r"^exclude_self needs queries that are the references"):
        nearest_distances(points[:3], points, 1, exclude_self=True)
    with pytest.raises(ValueError, match=r"^k must lie from 1 to 4"):
        manifold_metrics(points, points[:5])


def test_bad_features_are_refused():
    points = draw(0, 10)
    with pytest.raises(ValueError, match=r"^references must be finite"):
        nearest_distances(points, points.log(), 1)
    with pytest.raises(ValueError, match=r"^queries is empty"):
        nearest_distances(points[:0], points, 1)
    with pytest.raises(ValueError, match=r"^queries has 3 feature dimensions, but 16"):
        unwrap(nearest_distances)(points[:, :3], points, 1)
    with pytest.raises(ValueError, match=r"^fake must be finite"):
        manifold_metrics(points, points.log())
    with pytest.raises(ValueError, match=r"^fake has 3 feature dimensions, but 16"):
        unwrap(manifold_metrics)(points, points[:, :3])
    with pytest.raises(ValueError, match=r"^real_radii must have the shape \(10,\), but it is \(9,\)"):
        unwrap(manifold_metrics)(points, points, 1, torch.ones(9))
    with pytest.raises(ValueError, match=r"^real_radii must be finite"):
        manifold_metrics(points, points, 1, torch.full((10,), torch.nan))
