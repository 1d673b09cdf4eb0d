import math
from itertools import product

import pytest
import torch

from randomz.priors.codes import PositionCodes, UniformCodes
from randomz.seeding import generator

K, GRID, DRAWS = 5, 2, 20000


def draw(count):
    """Grids in which place p holds code p three times in four, and else any."""
    stream = generator("test_codes")
    own = torch.arange(GRID * GRID).expand(count, -1)
    other = torch.randint(K, own.shape, generator=stream)
    return torch.where(torch.rand(own.shape, generator=stream) < 0.75, own, other).unflatten(1, (GRID, GRID))


def fitted(codes, entries=K):
    return PositionCodes(entries, GRID).fit(codes, codes, 0, lambda _: None)


def noise():
    return generator("test_codes sample")


def test_every_grid_is_as_likely_under_uniform_codes():
    log_prob = UniformCodes(K, GRID).log_prob(draw(7))
    torch.testing.assert_close(log_prob, torch.full((7,), -4 * math.log(5)))


def test_uniform_codes_are_drawn_alike():
    codes = UniformCodes(K, GRID).sample(DRAWS, noise())
    assert codes.shape == (DRAWS, GRID, GRID)
    for place in codes.flatten(1).T:
        shares = place.bincount(minlength=K) / DRAWS
        assert bool(((shares - 1 / K).abs() < 5 * math.sqrt(0.16 / DRAWS)).all())


def test_shares_are_counts_with_one_added():
    codes = torch.tensor([[[0, 1], [2, 0]], [[0, 1], [0, 0]]])
    expected = torch.tensor([[3, 1, 1], [1, 3, 1], [2, 1, 2], [3, 1, 1]]) / 5
    torch.testing.assert_close(fitted(codes, entries=3).shares, expected)


def test_log_prob_is_the_sum_of_torchs_categoricals_over_the_places():
    codes = draw(300)
    prior = fitted(codes)
    reference = torch.distributions.Categorical(prior.shares).log_prob(codes.flatten(1)).sum(1)
    torch.testing.assert_close(prior.log_prob(codes), reference)


def test_a_code_that_was_never_seen_is_possible():
    prior = fitted(torch.zeros(1000, GRID, GRID, dtype=torch.int64))
    unseen = torch.full((1, GRID, GRID), K - 1)
    assert float(prior.log_prob(unseen)) == pytest.approx(4 * math.log(1 / 1005), rel=1e-5)


def test_unfitted_position_codes_are_uniform():
    codes = draw(7)
    torch.testing.assert_close(PositionCodes(K, GRID).log_prob(codes), UniformCodes(K, GRID).log_prob(codes))


@pytest.mark.parametrize(
    "prior", [UniformCodes(2, 2), fitted(draw(300).clamp(max=1), entries=2)], ids=["uniform", "position"]
)
def test_probabilities_of_all_grids_sum_to_1(prior):
    grids = torch.tensor(list(product(range(2), repeat=4))).view(16, 2, 2)
    assert float(prior.log_prob(grids).exp().sum()) == pytest.approx(1, abs=1e-5)


def test_position_codes_are_drawn_by_the_shares_of_their_place():
    prior = fitted(draw(300))
    codes = prior.sample(DRAWS, noise())
    assert codes.shape == (DRAWS, GRID, GRID)
    for place, shares in zip(codes.flatten(1).T, prior.shares, strict=True):
        found = place.bincount(minlength=K) / DRAWS
        assert bool(((found - shares).abs() < 5 * (shares * (1 - shares) / DRAWS).sqrt()).all())


def test_places_are_drawn_independently():
    codes = fitted(draw(300)).sample(DRAWS, noise()).flatten(1)
    correlations = torch.corrcoef(codes.T.double()) - torch.eye(4)
    assert float(correlations.abs().max()) < 5 / math.sqrt(DRAWS)


@pytest.mark.parametrize("prior", [UniformCodes(K, GRID), fitted(draw(300))], ids=["uniform", "position"])
def test_draws_come_from_the_noise_alone(prior):
    state = torch.get_rng_state()
    assert torch.equal(prior.sample(50, noise()), prior.sample(50, noise()))
    assert not torch.equal(prior.sample(50, noise()), prior.sample(50, generator("test_codes other")))
    assert torch.equal(torch.get_rng_state(), state)
