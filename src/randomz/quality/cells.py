"""Points in cells around centres, so that a search looks only where something can be near.

For a point t no farther from the centre c_j than from c_i, and any q, |q - t| is at least
(|q - c_j|² - |q - c_i|²) / (2 |c_i - c_j|): how far q is from the plane between the two. With c_i the centre nearest
to q this bounds the distance to all points of a cell at once (Hjaltason and Samet 2003, "Index-driven similarity search
in metric spaces", section 4.2). Features of digits lie in classes, so that nine tenths of all pairs need no distance.

N points, M queries, F features, C cells.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

CELLS, SIZE = 64, 256  # how many, at most, and points that a cell has in the mean, at least
PASSES, SHARE = 3, 100  # of k-means, and points a cell that it learns from: bounds hold for any centres
PAIRS = 2**17  # in a block: a megabyte in float64, which stays in the cache
TOLERANCE = 1e-13  # of the squared norms: some ten times the rounding error of a squared distance


@dataclass(frozen=True)
class Cells:
    """Points, cell after cell, with the index that each had; cell j is from edges[j] to edges[j + 1], never empty."""

    points: Float64[Tensor, "N F"]
    norms: Float64[Tensor, " N"]  # squared
    order: Int64[Tensor, " N"]
    centres: Float64[Tensor, "C F"]
    edges: list[int]

    def __len__(self) -> int:
        """The number of cells."""
        return len(self.centres)

    def members(self, cell: int) -> slice:
        """Where the points of a cell stand."""
        return slice(self.edges[cell], self.edges[cell + 1])

    def bounds(self, queries: Float64[Tensor, "M F"]) -> tuple[Int64[Tensor, " M"], Float64[Tensor, "C M"]]:
        """The cell nearest to each query, and a lower bound on its squared distance to every point of each cell."""
        norms = squared_norms(queries)
        squares = torch.mm(as_columns(self.centres, squared_norms(self.centres)), as_rows(queries, norms).T)
        least, nearest = squares.min(0)
        apart = torch.cdist(self.centres, self.centres)[:, nearest]
        slack = 8 * TOLERANCE * (self.norms.max() + norms)
        return nearest, squares.sub_(least + slack).clamp_(min=0).div_(2 * apart).nan_to_num_(nan=0).square_()

    def blocks(self, cell: int, rows: Int64[Tensor, " R"]) -> Iterator[Int64[Tensor, " P"]]:
        """Queries in parts, such that the distances to the points of a cell stay in the cache."""
        if len(rows):
            yield from rows.split(max(1, PAIRS // (self.edges[cell + 1] - self.edges[cell])))


def squared_norms(points: Float64[Tensor, "N F"]) -> Float64[Tensor, " N"]:
    """|x|² of each point."""
    norms: Tensor = torch.linalg.vector_norm(points, dim=1)
    return norms.square_()


def as_rows(points: Float64[Tensor, "N F"], norms: Float64[Tensor, " N"]) -> Float64[Tensor, "N G"]:
    """Left factor of a product that gives squared distances, [-2 x, |x|², 1]; `norms` may hold something else."""
    return torch.cat([-2 * points, norms[:, None], torch.ones_like(norms)[:, None]], 1)


def as_columns(points: Float64[Tensor, "N F"], norms: Float64[Tensor, " N"]) -> Float64[Tensor, "N G"]:
    """Its right factor, [y, 1, |y|²], before it is transposed."""
    return torch.cat([points, torch.ones_like(norms)[:, None], norms[:, None]], 1)


def sort_into_cells(points: Float64[Tensor, "N F"]) -> Cells:
    """Cells by k-means from points at even distances in the order given, without chance."""
    count = max(1, min(CELLS, len(points) // SIZE))
    learnt = points[:: max(1, len(points) // (SHARE * count))]
    centres = learnt[:: len(learnt) // count][:count]
    for _ in range(PASSES):
        nearest = _nearest(learnt, centres)
        sizes = nearest.bincount(minlength=count).clamp(min=1)
        centres = torch.zeros_like(centres).index_add_(0, nearest, learnt) / sizes[:, None]
    nearest = _nearest(points, centres)
    used, sizes = nearest.unique(return_counts=True)
    order = nearest.argsort(stable=True)
    ordered = points[order]
    return Cells(ordered, squared_norms(ordered), order, centres[used], [0, *sizes.cumsum(0).tolist()])


def _nearest(points: Float64[Tensor, "N F"], centres: Float64[Tensor, "C F"]) -> Int64[Tensor, " N"]:
    return torch.addmm(squared_norms(centres), points, centres.T, alpha=-2).argmin(1)
