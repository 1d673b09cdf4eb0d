import pytest
import torch

from randomz.quality import cells
from randomz.quality.cells import as_columns, as_rows, sort_into_cells, squared_norms
from randomz.seeding import generator


def draw(key, count=1500, dimension=8):
    """Five clusters, some of them close together."""
    stream = generator("test_cells", key)
    centres = torch.tensor([0.0, 1.0, 5.0, 20.0, 21.0], dtype=torch.float64)[torch.arange(count) % 5, None]
    return centres + torch.randn(count, dimension, generator=stream, dtype=torch.float64)


def test_every_point_stands_in_one_cell_with_its_index():
    points = draw(0)
    found = sort_into_cells(points)
    assert torch.equal(found.points, points[found.order])
    assert torch.equal(found.order.sort().values, torch.arange(len(points)))
    assert found.edges[0] == 0
    assert found.edges[-1] == len(points)
    assert all(a < b for a, b in zip(found.edges, found.edges[1:], strict=False))
    assert len(found) == len(found.centres) == len(found.edges) - 1 > 1


def test_a_cell_holds_the_points_nearest_to_its_centre():
    found = sort_into_cells(draw(0))
    nearest = torch.cdist(found.points, found.centres).argmin(1)
    for cell in range(len(found)):
        assert (nearest[found.members(cell)] == cell).all()


@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_no_point_of_a_cell_is_nearer_than_its_bound(shift):
    queries = draw(1, 400)
    found = sort_into_cells(draw(0) + shift)
    nearest, bounds = found.bounds(queries + shift)
    assert torch.equal(nearest, torch.cdist(queries + shift, found.centres).argmin(1))
    for cell in range(len(found)):
        least = torch.cdist(queries + shift, found.points[found.members(cell)]).amin(1)
        assert (bounds[cell] <= least.square()).all()
    assert (bounds.gather(0, nearest[None]) == 0).all()


def test_bounds_rule_most_cells_out(monkeypatch):
    monkeypatch.setattr(cells, "SIZE", 100)
    points = draw(0)
    found = sort_into_cells(points)
    _, bounds = found.bounds(points)
    reach = torch.cdist(points, points).topk(2, largest=False).values[:, 1]
    assert float((bounds > reach.square()).double().mean()) > 0.3


@pytest.mark.parametrize(
    "points", [torch.zeros(1, 3), torch.ones(900, 3), torch.ones(900, 1) * torch.arange(2).repeat(450)[:, None]]
)
def test_points_that_are_alike_share_a_cell(points):
    found = sort_into_cells(points.double())
    assert len(found) == len(points.unique(dim=0))
    _, bounds = found.bounds(points.double())
    assert bool(bounds.isfinite().all())


def test_cells_are_the_same_each_time():
    first, again = sort_into_cells(draw(0)), sort_into_cells(draw(0))
    assert torch.equal(first.order, again.order)
    assert first.edges == again.edges


def test_blocks_are_all_rows_in_order(monkeypatch):
    monkeypatch.setattr(cells, "PAIRS", 1000)
    found, rows = sort_into_cells(draw(0)), torch.arange(40) * 3
    blocks = list(found.blocks(0, rows))
    assert torch.equal(torch.cat(blocks), rows)
    assert max(len(block) for block in blocks) == max(1, 1000 // found.edges[1])
    assert list(found.blocks(0, rows[:0])) == []


def test_a_product_of_rows_and_columns_gives_squared_distances():
    a, b = draw(0, 30), draw(1, 20)
    squares = as_rows(a, squared_norms(a)) @ as_columns(b, squared_norms(b)).T
    torch.testing.assert_close(squares, torch.cdist(a, b).square(), rtol=1e-10, atol=1e-10)
