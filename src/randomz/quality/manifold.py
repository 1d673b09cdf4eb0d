"""Nearest neighbours, and what they say of samples: precision, recall, density and coverage.

Precision and recall: Kynkäänniemi et al. 2019, "Improved precision and recall metric for assessing generative
models".
Density and coverage: Naeem et al. 2020, "Reliable fidelity and diversity metrics for generative models".

Distances are Euclidean and in float64: a float32 |x|² - 2 x·y + |y|² is wrong by 1e-3 of the features' spread
for a copied image. Pairs that bounds show to be too far apart are left out. M queries, N references, F features,
k neighbours.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from randomz.quality.cells import TOLERANCE, Cells, as_columns, as_rows, sort_into_cells, squared_norms
from randomz.quality.checks import check_features, check_finite

SPARE = 3  # candidates beyond those needed, for neighbours whose order rounding has changed
CHUNK = 1000  # queries whose differences from their candidates are taken at a time


@dataclass(frozen=True)
class ManifoldMetrics:
    """Shares in [0, 1], except density, which has no upper bound and is about 1 for real samples."""

    precision: float
    recall: float
    density: float
    coverage: float


def nearest_distances(
    queries: Float[Tensor, "M F"],
    references: Float[Tensor, "N F"],
    k: int,
    *,
    exclude_self: bool = False,
) -> tuple[Float64[Tensor, "M k"], Int64[Tensor, "M k"]]:
    """Distances from each query to its k nearest references, ascending, and the indices of these references.

    `exclude_self`: the queries are the references, and none is its own neighbour. The neighbours are found by
    a matrix product and their distances then taken from the differences, so that a copy is at distance 0
    exactly and any other is right to 1e-15 of itself; neighbours may be swapped when their distances differ
    by less than 3e-8 of the features' spread. Among equal distances any index may come first.
    """
    check_features("references", references)
    check_features("queries", queries, references.shape[1])
    if exclude_self and len(queries) != len(references):
        raise ValueError(
            f"exclude_self needs queries that are the references, but there are {len(queries)} queries and "
            f"{len(references)} references."
        )
    available = len(references) - exclude_self
    if not 1 <= k <= available:
        raise ValueError(f"k must lie from 1 to {available}, the neighbours that there are, but it is {k}.")
    centre = references.double().mean(0)
    asked, cells = queries.double() - centre, sort_into_cells(references.double() - centre)
    candidates = _candidates(asked, cells, k + exclude_self)
    own = torch.arange(len(asked), device=asked.device) if exclude_self else torch.full_like(candidates[:, 0], -1)
    found = [
        _exact_nearest(*part, cells, k)
        for part in zip(asked.split(CHUNK), candidates.split(CHUNK), own.split(CHUNK), strict=True)
    ]
    distances, indices = zip(*found, strict=True)
    return torch.cat(distances), torch.cat(indices)


def _candidates(queries: Float64[Tensor, "M F"], cells: Cells, k: int) -> Int64[Tensor, "M K"]:
    """Places in `cells.points` of the k nearest of each query and of some more, by rounded squared distances.

    -1 stands where there are not so many points.
    """
    nearest, bounds = cells.bounds(queries)
    rows, columns = as_rows(queries, squared_norms(queries)), as_columns(cells.points, cells.norms)
    best = queries.new_full((len(queries), k + SPARE), torch.inf)
    places = torch.full_like(best, -1, dtype=torch.int64)

    def search(cell: int, asked: Int64[Tensor, " R"]) -> None:
        members = cells.members(cell)
        every = torch.arange(members.start, members.stop, device=queries.device)
        for part in cells.blocks(cell, asked):
            squares = rows[part] @ columns[members].T
            better = (squares.amin(1) < best[part, -1]).nonzero()[:, 0]
            changed = part[better]
            known = torch.cat([best[changed], squares[better]], 1)
            best[changed], kept = known.topk(k + SPARE, dim=1, largest=False)
            places[changed] = torch.cat([places[changed], every.expand(len(changed), -1)], 1).gather(1, kept)

    for cell in range(len(cells)):
        search(cell, (nearest == cell).nonzero()[:, 0])
    for cell in range(len(cells)):  # what has been found so far rules most cells out
        search(cell, ((bounds[cell] <= best[:, k - 1]) & (nearest != cell)).nonzero()[:, 0])
    return places


def _exact_nearest(
    queries: Float64[Tensor, "M F"],
    places: Int64[Tensor, "M K"],
    own: Int64[Tensor, " M"],
    cells: Cells,
    k: int,
) -> tuple[Float64[Tensor, "M k"], Int64[Tensor, "M k"]]:
    """The k nearest among candidates, by their differences, without those that `own` names."""
    differences = cells.points[places].sub_(queries[:, None])
    indices = cells.order[places]
    exact = torch.linalg.vector_norm(differences, dim=2).masked_fill_(
        (places < 0) | (indices == own[:, None]), torch.inf
    )
    nearest = exact.topk(k, dim=1, largest=False)
    return nearest.values, indices.gather(1, nearest.indices)


def neighbour_radii(features: Float[Tensor, "N F"], k: int = 5) -> Float64[Tensor, " N"]:
    """Distance of each vector to its k-th nearest other: the radius of its ball in the manifold estimate."""
    return nearest_distances(features, features, k, exclude_self=True)[0][:, -1]


def manifold_metrics(
    real: Float[Tensor, "N F"],
    fake: Float[Tensor, "M F"],
    k: int = 5,
    real_radii: Float[Tensor, " N"] | None = None,
) -> ManifoldMetrics:
    """Precision, recall, density and coverage of `fake` against `real`, from balls of k nearest neighbours.

    A point on the edge of a ball lies inside, so that duplicates, whose balls have radius 0, hold each other.
    `prdc` leaves the edge out and otherwise gives the same figures. `real_radii` may be given as
    `neighbour_radii(real, k)` returned it, in float64: rounded to float32, points on an edge fall either way.
    """
    check_features("real", real)
    check_features("fake", fake, real.shape[1])
    if real_radii is None:
        real_radii = neighbour_radii(real, k)
    check_finite("real_radii", real_radii)
    if real_radii.shape != (len(real),):
        raise ValueError(f"real_radii must have the shape ({len(real)},), but it is {tuple(real_radii.shape)}.")
    centre = real.double().mean(0)
    return _containment(
        real.double() - centre, fake.double() - centre, real_radii.double(), neighbour_radii(fake, k), k
    )


def _containment(
    real: Float64[Tensor, "N F"],
    fake: Float64[Tensor, "M F"],
    real_radii: Float64[Tensor, " N"],
    fake_radii: Float64[Tensor, " M"],
    k: int,
) -> ManifoldMetrics:
    """One pass over all pairs, real by fake, of which one can hold the other, in terms of squared distances.

    `excess` is the squared distance less the squared radius of the real ball: not above 0 where the ball
    holds the fake. Norms are taken a rounding error too small, so that a point on an edge counts as inside.
    """
    cells = sort_into_cells(real)
    _, bounds = cells.bounds(fake)
    real_squares, fake_squares = real_radii[cells.order].square(), fake_radii.square()
    real_norms, fake_norms = ((1 - TOLERANCE) * norms for norms in (cells.norms, squared_norms(fake)))
    real_rows, fake_columns = as_rows(cells.points, real_norms - real_squares), as_columns(fake, fake_norms)
    fake_excess = torch.full_like(fake_norms, torch.inf)  # least over the real balls
    real_excess = torch.full_like(real_norms, torch.inf)  # of the own ball, least over the fakes
    recalled = torch.full_like(real_norms, torch.inf)  # of the fake balls, least
    held = torch.zeros((), dtype=torch.int64, device=real.device)
    for cell in range(len(cells)):
        rows = cells.members(cell)
        squares = real_squares[rows]
        near = (bounds[cell] <= fake_squares.clamp(min=squares.max())).nonzero()[:, 0]
        for columns in cells.blocks(cell, near):
            excess = real_rows[rows] @ fake_columns[columns].T
            fake_excess[columns] = torch.minimum(fake_excess[columns], excess.amin(0))
            real_excess[rows] = torch.minimum(real_excess[rows], excess.amin(1))
            held += (excess <= 0).count_nonzero()
            beyond = excess.sub_(fake_squares[columns]).amin(1) + squares
            recalled[rows] = torch.minimum(recalled[rows], beyond)
    return ManifoldMetrics(
        precision=_share_inside(fake_excess),
        recall=_share_inside(recalled),
        density=float(held) / (k * len(fake)),
        coverage=_share_inside(real_excess),
    )


def _share_inside(excess: Float64[Tensor, " N"]) -> float:
    return float((excess <= 0).double().mean())
