"""Nearest neighbours, and what they say of samples: precision, recall, density and coverage.

Precision and recall: Kynkäänniemi et al. 2019, "Improved precision and recall metric for assessing generative
models".
Density and coverage: Naeem et al. 2020, "Reliable fidelity and diversity metrics for generative models".

Distances are Euclidean and in float64: a float32 |x|² - 2 x·y + |y|² is wrong by 1e-3 of the features' spread
for a copied image. A float32 product only finds candidates for neighbours, and the bound on its rounding error
(Higham 2002, "Accuracy and stability of numerical algorithms", section 3.5) tells where that was safe; elsewhere
the search is repeated in float64. M queries, N references, F features, k neighbours.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor
from torch.nn import functional

from randomz.quality.checks import check_features, check_finite

GROUP = 4  # references that share one entry of the search for candidates
SPARE = 2  # groups searched beyond those needed, for candidates whose order rounding has changed
BLOCK, COLUMNS = 2048, 256  # rows and columns of a block of distances: 4 MiB, which stays in the cache
TOLERANCE = 1e-13  # of the squared norms: some ten times the rounding error of a squared distance
UNDERFLOW = 1e-34  # above what float32 loses to numbers too small for it, where the largest norm is about 1


@dataclass(frozen=True)
class ManifoldMetrics:
    """Shares in [0, 1], except density, which has no upper bound and is about 1 for real samples."""

    precision: float
    recall: float
    density: float
    coverage: float


@dataclass(frozen=True)
class _References:
    """References, centred and padded to whole blocks with points that are infinitely far.

    `narrow` holds them in float32, divided by `scale`, the largest norm, so that squares neither overflow nor vanish.
    """

    points: Float64[Tensor, "P F"]
    norms: Float64[Tensor, " P"]
    narrow: Float32[Tensor, "P F"]
    narrow_norms: Float32[Tensor, " P"]
    scale: Float64[Tensor, ""]
    count: int
    block: int


def nearest_distances(
    queries: Float[Tensor, "M F"],
    references: Float[Tensor, "N F"],
    k: int,
    *,
    exclude_self: bool = False,
    chunk: int = COLUMNS,
) -> tuple[Float64[Tensor, "M k"], Int64[Tensor, "M k"]]:
    """Distances from each query to its k nearest references, ascending, and the indices of these references.

    `exclude_self`: the queries are the references, and none is its own neighbour. The neighbours are found by
    a matrix product and their distances then taken from the differences, so that a copy is at distance 0
    exactly and any other is right to 1e-15 of itself; neighbours may be swapped when their distances differ
    by less than 3e-8 of the features' spread. Among equal distances any index may come first. Memory: about
    `chunk` x N bytes.
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
    prepared = _prepare(references.double() - centre)
    distances, indices = [], []
    for start in range(0, len(queries), chunk):
        asked = queries[start : start + chunk].double() - centre
        own = torch.arange(start, start + len(asked), device=queries.device) if exclude_self else None
        found = _nearest(asked, prepared, k, own)
        distances.append(found[0])
        indices.append(found[1])
    return torch.cat(distances), torch.cat(indices)


def _prepare(points: Float64[Tensor, "N F"]) -> _References:
    block = min(BLOCK, len(points) + -len(points) % GROUP)
    padding = -len(points) % block
    squares = points.square().sum(1)
    scale = squares.max().sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    padded = functional.pad(points, (0, 0, 0, padding))
    norms = functional.pad(squares, (0, padding), value=torch.inf)
    narrow = (padded / scale).float()
    return _References(padded, norms, narrow, (norms / scale / scale).float(), scale, len(points), block)


def _rounding(dimension: int) -> float:
    """Bound on the error of a squared distance out of narrow products, as a share of (|x| + |y|)²."""
    # TF32 and bfloat16, where a user has allowed them, decide next to nothing by this bound: float64 then does all.
    unit = 2.0**-24 if torch.get_float32_matmul_precision() == "highest" else 2.0**-8
    return unit * (dimension + 8)


def _nearest(
    queries: Float64[Tensor, "M F"], references: _References, k: int, own: Int64[Tensor, " M"] | None
) -> tuple[Float64[Tensor, "M k"], Int64[Tensor, "M k"]]:
    """The k nearest of one chunk, without those that `own` names."""
    wanted = k + (own is not None)
    narrow = (queries / references.scale).float()
    members, beyond = _candidates(narrow, references.narrow, references.narrow_norms, references.block, wanted)
    distances, indices = _exact_nearest(queries, references, members, k, own)
    # Whatever lies nearer than the k-th found, within `reach`, has a norm of |x| + reach at most.
    size, reach = (torch.linalg.vector_norm(queries, dim=1) / references.scale, distances[:, -1] / references.scale)
    error = _rounding(queries.shape[1]) * (2 * size + reach).square() + UNDERFLOW
    doubtful = ~(reach.square() + error < beyond.double() + size.square())  # a NaN is doubtful too
    if bool(doubtful.any()):
        again = queries[doubtful]
        members, _ = _candidates(again, references.points, references.norms, references.block, wanted)
        excluded = None if own is None else own[doubtful]
        distances[doubtful], indices[doubtful] = _exact_nearest(again, references, members, k, excluded)
    return distances, indices


def _candidates(
    queries: Float[Tensor, "M F"], points: Float[Tensor, "P F"], norms: Float[Tensor, " P"], block: int, k: int
) -> tuple[Int64[Tensor, "M C"], Float[Tensor, " M"]]:
    """Give indices of C references among which each query's k nearest are, and the least |y|² - 2 x·y of all others.

    They are the members of the groups with the k smallest minima: a selection among N / 4 numbers instead of
    N. The members of a group stand `stride` apart in a block, so that minima are taken over whole rows.
    """
    rows, stride, total = len(queries), block // GROUP, len(points) // GROUP
    scaled, squared = -2 * queries, queries.new_empty(rows, block)  # written again for each block: fresh memory is slow
    smallest = queries.new_empty(rows, total)
    for number, part in enumerate(_slices(len(points), block)):
        torch.mm(scaled, points[part].T, out=squared).add_(norms[part])
        smallest[:, number * stride : (number + 1) * stride] = squared.view(rows, GROUP, stride).amin(1)
    chosen = min(k + SPARE, total)
    best = smallest.topk(min(chosen + 1, total), dim=1, largest=False)
    beyond = best.values[:, chosen] if chosen < total else queries.new_full((rows,), torch.inf)
    groups = best.indices[:, :chosen]
    first = groups // stride * block + groups % stride
    return (first[:, :, None] + torch.arange(GROUP, device=queries.device) * stride).flatten(1), beyond


def _exact_nearest(
    queries: Float64[Tensor, "M F"],
    references: _References,
    members: Int64[Tensor, "M C"],
    k: int,
    own: Int64[Tensor, " M"] | None,
) -> tuple[Float64[Tensor, "M k"], Int64[Tensor, "M k"]]:
    """The k nearest among candidates, by their differences."""
    differences = references.points[members].sub_(queries[:, None])
    exact = torch.linalg.vector_norm(differences, dim=2).masked_fill_(members >= references.count, torch.inf)
    if own is not None:
        exact.masked_fill_(members == own[:, None], torch.inf)
    nearest = exact.topk(k, dim=1, largest=False)
    return nearest.values, members.gather(1, nearest.indices)


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
    """One pass over the blocks of the distance matrix, real by fake, in terms of squared distances.

    `excess` is the squared distance less the squared radius of the real ball: not above 0 where the ball
    holds the fake. Norms are taken a rounding error too small, so that a point on an edge counts as inside.
    """
    real_norms, fake_norms = ((1 - TOLERANCE) * points.square().sum(1) for points in (real, fake))
    real_squares, fake_squares = real_radii.square(), fake_radii.square()
    fake_excess = torch.full_like(fake_norms, torch.inf)  # least over the real balls
    real_excess = torch.full_like(real_norms, torch.inf)  # of the own ball, least over the fakes
    recalled = torch.full_like(real_norms, torch.inf)  # of the fake balls, least
    held = torch.zeros((), dtype=torch.int64, device=real.device)
    for rows in _slices(len(real), BLOCK):
        bias = (real_norms[rows] - real_squares[rows])[:, None]
        for columns in _slices(len(fake), COLUMNS):
            excess = torch.addmm(bias, real[rows], fake[columns].T, alpha=-2).add_(fake_norms[columns])
            fake_excess[columns] = torch.minimum(fake_excess[columns], excess.amin(0))
            real_excess[rows] = torch.minimum(real_excess[rows], excess.amin(1))
            held += (excess <= 0).count_nonzero()
            beyond = excess.sub_(fake_squares[columns]).amin(1) + real_squares[rows]
            recalled[rows] = torch.minimum(recalled[rows], beyond)
    return ManifoldMetrics(
        precision=_share_inside(fake_excess),
        recall=_share_inside(recalled),
        density=float(held) / (k * len(fake)),
        coverage=_share_inside(real_excess),
    )


def _slices(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]


def _share_inside(excess: Float64[Tensor, " N"]) -> float:
    return float((excess <= 0).double().mean())
