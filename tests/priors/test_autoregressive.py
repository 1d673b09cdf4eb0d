import math
from itertools import product

import pytest
import torch
from synthetic import tiny_params

from randomz.priors import autoregressive
from randomz.priors.autoregressive import Autoregressive, fourier_features
from randomz.priors.codes import PositionCodes
from randomz.seeding import generator

GRIDS = torch.tensor(list(product(range(2), repeat=4))).view(16, 2, 2)


def unfitted(entries=2, grid=2, **changes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        codebook = torch.randn(entries, 3)
        return Autoregressive(codebook, grid, tiny_params(prior={"vqvae": changes}).prior.vqvae)


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
    return fit(unfitted(epochs=12))


def noise():
    return generator("test_autoregressive sample")


def wide():
    """A prior over 3 x 3 grids of 7 codes, with weights far from their start."""
    prior = unfitted(7, 3).eval()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for parameter in prior.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter) * parameter.ne(0))  # 0 where a mask says so
        prior.cluster_shares.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    return prior


def exact(prior, grids):
    """Log probability of grids by way of every cluster, nats."""
    ways = [prior.log_joint(torch.full((len(grids),), m), grids) for m in range(len(prior.centres))]
    return torch.logsumexp(torch.stack(ways), 0)


@torch.no_grad()
def test_logits_at_a_place_depend_on_the_codes_before_it_alone():
    prior = wide()
    codes, clusters = torch.randint(7, (20, 9), generator=noise()), torch.arange(20) % 4
    logits = prior(clusters, codes)
    assert logits.shape == (20, 9, 7)
    for place in range(9):
        changed = codes.clone()
        changed[:, place] = (changed[:, place] + 1) % 7
        moved = (prior(clusters, changed) - logits).abs().amax((0, 2))
        assert bool((moved[: place + 1] == 0).all())
        assert bool((moved[place + 1 :] > 1e-4).all())
    assert bool(((prior((clusters + 1) % 4, codes) - logits).abs().amax((0, 2)) > 1e-4).all())


@torch.no_grad()
def test_sampling_draws_each_place_from_the_logits_of_the_codes_so_far(monkeypatch):
    prior, draw, drawn_from = wide(), autoregressive.draw, []

    def recorded(shares, stream):
        drawn_from.append(shares)
        return draw(shares, stream)

    monkeypatch.setattr(autoregressive, "draw", recorded)
    codes = prior.sample(30, noise())
    assert codes.shape == (30, 3, 3)
    clusters = torch.multinomial(prior.cluster_shares, 30, replacement=True, generator=noise())
    logits = prior(clusters, codes.flatten(1))
    torch.testing.assert_close(torch.stack(drawn_from, 1), logits.softmax(-1), rtol=1e-4, atol=1e-6)


def test_an_index_is_drawn_as_often_as_its_share_says():
    shares = torch.tensor([0.0, 0.5, 0.0, 0.2, 0.3, 0.0])
    drawn = autoregressive.draw(shares.expand(10000, -1).contiguous(), noise())
    assert drawn.shape == (10000, 1)
    found = drawn[:, 0].bincount(minlength=6) / 10000
    assert bool(((found - shares).abs() <= 5 * (shares * (1 - shares) / 10000).sqrt()).all())


def test_a_certain_index_is_drawn():
    for certain in (0, 3, 511):
        shares = torch.zeros(200, 512)
        shares[:, certain] = 1
        assert (autoregressive.draw(shares, noise()) == certain).all()


def test_grids_are_drawn_as_often_as_they_are_likely(fitted):
    prior, _ = fitted
    count = 4500  # in chunks, the last of them smaller
    codes = prior.sample(count, noise()).flatten(1)
    found = (codes @ torch.tensor([8, 4, 2, 1])).bincount(minlength=16) / count
    shares = exact(prior, GRIDS).exp()
    assert bool(((found - shares).abs() < 5 * (shares * (1 - shares) / count).sqrt()).all())


def test_probabilities_of_all_grids_sum_to_1_before_and_after_a_fit(fitted):
    for prior in (unfitted(), fitted[0]):
        assert float(exact(prior, GRIDS).exp().sum()) == pytest.approx(1, abs=1e-5)


def test_log_prob_is_a_bound_and_exact_with_a_single_cluster(fitted):
    assert bool((fitted[0].log_prob(GRIDS) < exact(fitted[0], GRIDS)).all())
    single, _ = fit(unfitted(clusters=1))
    torch.testing.assert_close(single.log_prob(GRIDS), exact(single, GRIDS))


def test_log_prob_is_the_clusters_share_and_the_sum_of_torchs_categoricals(fitted):
    prior, _ = fitted
    clusters = prior.cluster(GRIDS)
    with torch.no_grad():
        places = torch.distributions.Categorical(logits=prior(clusters, GRIDS.flatten(1))).log_prob(GRIDS.flatten(1))
    torch.testing.assert_close(prior.log_prob(GRIDS), prior.cluster_shares[clusters].log() + places.sum(1))


def test_clusters_are_the_nearest_centres_and_shares_their_frequencies(fitted):
    prior, codes = fitted[0], draw(400)
    vectors = prior.codebook[codes].flatten(1)
    nearest = [int((vector - prior.centres).square().sum(1).argmin()) for vector in vectors]
    assert prior.cluster(codes).tolist() == nearest
    counts = torch.tensor(nearest).bincount(minlength=4) + 1
    torch.testing.assert_close(prior.cluster_shares, counts / counts.sum())


def test_more_clusters_than_grids_are_refused():
    with pytest.raises(ValueError, match="found 3 grids of codes for 4 clusters"):
        unfitted().fit(draw(3), draw(3), 0, lambda _: None)


def test_one_code_that_all_images_share_is_no_trap():
    prior = unfitted(6)
    same = torch.full((60, 2, 2), 3)
    prior.fit(same, same, 0, lambda _: None)
    assert bool(prior.log_prob(same).isfinite().all())
    assert float((prior.sample(200, noise()) == 3).double().mean()) > 0.8


def test_weights_above_the_diagonal_stay_zero(fitted):
    for layer in (fitted[0].input, fitted[0].blocks[0].first, fitted[0].blocks[0].second):
        (weight,) = layer.weights
        outside = torch.kron(torch.triu(torch.ones(4, 4), 1), torch.ones(layer.outputs, layer.inputs)).bool()
        assert bool((weight[outside] == 0).all())
        assert bool((weight[~outside] != 0).any())


def test_close_entries_have_like_features():
    codebook = torch.tensor([[0.0, 0.0], [0.01, 0.0], [2.0, 1.0], [-2.0, -1.0]])
    features = fourier_features(codebook, 64)
    gaps = torch.cdist(features, features)
    assert float(gaps[0, 1]) < 0.1 * float(gaps[0, 2:].min())
    wide = fourier_features(torch.randn(300, 4, generator=noise()), 200)
    assert float(wide.square().mean()) == pytest.approx(1, abs=0.05)


def test_what_places_have_in_common_is_learned(fitted):
    held_out = draw(2000, key=2)
    apart = PositionCodes(2, 2).fit(draw(400), draw(400), 0, lambda _: None)
    nats = -float(exact(fitted[0], held_out).mean())
    equal, other = 0.8 / 2 + 0.2 / 16, 0.2 / 16  # the true probabilities of a grid
    entropy = -2 * equal * math.log(equal) - 14 * other * math.log(other)
    assert nats < entropy + 0.1
    assert -float(apart.log_prob(held_out).mean()) > entropy + 1


def test_a_row_an_epoch_and_the_best_epoch_is_kept(fitted):
    prior, rows = fitted
    assert [row["epoch"] for row in rows] == list(range(1, 13))
    best = -float(prior.log_prob(draw(400, key=1)).double().mean())
    assert min(row["validation_nats"] for row in rows) == pytest.approx(best, rel=1e-6)


def test_a_fit_that_gets_worse_keeps_its_best_epoch():
    rows = []
    prior = unfitted(epochs=40, learning_rate=0.05, dropout=0.0, weight_decay=0.0)
    prior.fit(draw(12), draw(400, key=1), 0, rows.append)  # so few that it learns them by heart
    nats = [row["validation_nats"] for row in rows]
    assert nats[-1] > min(nats)
    assert -float(prior.log_prob(draw(400, key=1)).double().mean()) == pytest.approx(min(nats), rel=1e-6)


def test_a_fit_is_a_function_of_its_seed(fitted):
    torch.manual_seed(7)
    state = torch.get_rng_state()
    again, rows = fit(unfitted(epochs=12))
    assert torch.equal(torch.get_rng_state(), state)
    assert rows == fitted[1]
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, fitted[0].state_dict()[name]), name
    other, _ = fit(unfitted(epochs=12), seed=1)
    assert not torch.equal(other.log_prob(GRIDS), again.log_prob(GRIDS))


def test_draws_come_from_the_noise_alone(fitted):
    prior, _ = fitted
    state = torch.get_rng_state()
    assert torch.equal(prior.sample(50, noise()), prior.sample(50, noise()))
    assert not torch.equal(prior.sample(50, noise()), prior.sample(50, generator("test_autoregressive other")))
    assert torch.equal(torch.get_rng_state(), state)


def test_every_parameter_learns():
    prior = unfitted(7, 3)
    codes, clusters = torch.randint(7, (50, 9), generator=noise()), torch.arange(50) % 4
    torch.nn.functional.cross_entropy(prior(clusters, codes).flatten(0, 1), codes.flatten()).backward()
    for name, parameter in prior.named_parameters():
        assert bool(parameter.grad.ne(0).any()), name
