import math
from itertools import product

import pytest
import torch
from synthetic import tiny_params

from randomz.priors.autoregressive import Autoregressive
from randomz.priors.codes import PositionCodes
from randomz.seeding import generator

GRIDS = torch.tensor(list(product(range(2), repeat=4))).view(16, 2, 2)


def unfitted(entries=2, grid=2, **changes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Autoregressive(entries, grid, tiny_params(prior={"vqvae": changes}).prior.vqvae)


def draw(count, key=0):
    """Grids of two codes: four equal codes with probability 0.8, else any."""
    stream = generator("test_autoregressive", key)
    same = torch.randint(2, (count, 1), generator=stream).expand(-1, 4)
    other = torch.randint(2, (count, 4), generator=stream)
    return torch.where(torch.rand(count, 1, generator=stream) < 0.8, same, other).unflatten(1, (2, 2))


def fit(prior, seed=0):
    rows = []
    return prior.fit(draw(400), draw(400, key=1), seed, rows.append), rows


@pytest.fixture(scope="module")
def fitted():
    return fit(unfitted(epochs=4))


def noise():
    return generator("test_autoregressive sample")


def wide():
    """A prior over 3 x 3 grids of 7 codes, with weights far from their start."""
    prior = unfitted(7, 3).eval()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for parameter in prior.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return prior


@torch.no_grad()
def test_logits_at_a_place_depend_on_the_codes_before_it_alone():
    prior = wide()
    codes = torch.randint(7, (20, 9), generator=noise())
    logits = prior(codes)
    assert logits.shape == (20, 9, 7)
    for place in range(9):
        changed = codes.clone()
        changed[:, place] = (changed[:, place] + 1) % 7
        moved = (prior(changed) - logits).abs().amax((0, 2))
        assert bool((moved[: place + 1] == 0).all())
        assert bool((moved[place + 1 :] > 1e-4).all())


@torch.no_grad()
def test_sampling_draws_each_place_from_the_logits_of_the_codes_so_far(monkeypatch):
    prior, multinomial, drawn_from = wide(), torch.multinomial, []

    def recorded(shares, *args, **kwargs):
        drawn_from.append(shares)
        return multinomial(shares, *args, **kwargs)

    monkeypatch.setattr(torch, "multinomial", recorded)
    codes = prior.sample(30, noise())
    assert codes.shape == (30, 3, 3)
    torch.testing.assert_close(torch.stack(drawn_from, 1), prior(codes.flatten(1)).softmax(-1), rtol=1e-4, atol=1e-6)


def test_grids_are_drawn_as_often_as_they_are_likely(fitted):
    prior, _ = fitted
    count = 4500  # in chunks, the last of them smaller
    codes = prior.sample(count, noise()).flatten(1)
    found = (codes @ torch.tensor([8, 4, 2, 1])).bincount(minlength=16) / count
    shares = prior.log_prob(GRIDS).exp()
    assert bool(((found - shares).abs() < 5 * (shares * (1 - shares) / count).sqrt()).all())


def test_probabilities_of_all_grids_sum_to_1_before_and_after_a_fit(fitted):
    for prior in (unfitted(), fitted[0]):
        assert float(prior.log_prob(GRIDS).exp().sum()) == pytest.approx(1, abs=1e-5)


def test_log_prob_is_the_sum_of_torchs_categoricals(fitted):
    prior, _ = fitted
    with torch.no_grad():
        places = torch.distributions.Categorical(logits=prior(GRIDS.flatten(1))).log_prob(GRIDS.flatten(1))
    torch.testing.assert_close(prior.log_prob(GRIDS), places.sum(1))


def test_what_places_have_in_common_is_learned(fitted):
    held_out = draw(2000, key=2)
    apart = PositionCodes(2, 2).fit(draw(400), draw(400), 0, lambda _: None)
    nats = -float(fitted[0].log_prob(held_out).mean())
    equal, other = 0.8 / 2 + 0.2 / 16, 0.2 / 16  # the true probabilities of a grid
    entropy = -2 * equal * math.log(equal) - 14 * other * math.log(other)
    assert nats < entropy + 0.1
    assert -float(apart.log_prob(held_out).mean()) > entropy + 1


def test_a_row_an_epoch_and_the_best_epoch_is_kept(fitted):
    prior, rows = fitted
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    best = -float(prior.log_prob(draw(400, key=1)).double().mean())
    assert min(row["validation_nats"] for row in rows) == pytest.approx(best, rel=1e-6)


def test_a_fit_that_gets_worse_keeps_its_best_epoch():
    prior, rows = fit(unfitted(epochs=6, learning_rate=3.0, dropout=0.0, weight_decay=0.0))
    nats = [row["validation_nats"] for row in rows]
    assert nats[-1] > min(nats)
    assert -float(prior.log_prob(draw(400, key=1)).double().mean()) == pytest.approx(min(nats), rel=1e-6)


def test_a_fit_is_a_function_of_its_seed(fitted):
    torch.manual_seed(7)
    state = torch.get_rng_state()
    again, rows = fit(unfitted(epochs=4))
    assert torch.equal(torch.get_rng_state(), state)
    assert rows == fitted[1]
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, fitted[0].state_dict()[name]), name
    other, _ = fit(unfitted(epochs=4), seed=1)
    assert not torch.equal(other.log_prob(GRIDS), again.log_prob(GRIDS))


def test_draws_come_from_the_noise_alone(fitted):
    prior, _ = fitted
    state = torch.get_rng_state()
    assert torch.equal(prior.sample(50, noise()), prior.sample(50, noise()))
    assert not torch.equal(prior.sample(50, noise()), prior.sample(50, generator("test_autoregressive other")))
    assert torch.equal(torch.get_rng_state(), state)


def test_every_parameter_learns():
    prior = unfitted(7, 3)
    codes = torch.randint(7, (50, 9), generator=noise())
    torch.nn.functional.cross_entropy(prior(codes).flatten(0, 1), codes.flatten()).backward()
    for name, parameter in prior.named_parameters():
        assert bool(parameter.grad.ne(0).any()), name
