import itertools
import math

import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from synthetic import tiny_params

from randomz.priors.mixture import Mixture, expectation_maximisation, sufficient_statistics
from randomz.seeding import generator

D, DRAWS = 3, 20000
CENTRES, SHARES = (-8.0, 0.0, 6.0), (0.5, 0.3, 0.2)


def draw(count, dimensions=D, key=0):
    """Codes of three clusters of different sizes, shares and centres."""
    stream = generator("test_mixture", key)
    chosen = torch.multinomial(torch.tensor(SHARES), count, replacement=True, generator=stream)
    centres, scales = torch.tensor(CENTRES)[chosen, None], torch.tensor([0.5, 1.0, 0.8])[chosen, None]
    eps = torch.randn(count, dimensions, generator=stream)
    return centres + scales * (eps + 0.8 * eps.roll(1, 1).tril(-1))  # dimensions go together, each in its own way


def unfitted(dimensions=D, **changes):
    gmm = {"codes": 5000, "components": [3], "iterations": 100, **changes}
    return Mixture(dimensions, tiny_params(prior={"ae": {"gmm": gmm}}).prior.ae.gmm)


def config(**changes):
    return unfitted().config.model_copy(update=changes)


def fitted(z, seed=0, **changes):
    return unfitted(z.shape[1], **changes).fit(z, z[:10], seed, lambda _: None)


def noise():
    return generator("test_mixture sample")


def test_log_prob_is_scikit_learns_of_the_same_mixture():
    prior, z = fitted(draw(600)), draw(50, key=1)
    reference = GaussianMixture(3)
    reference.weights_, reference.means_ = prior.weights.double().numpy(), prior.means.double().numpy()
    scales = prior.scales.double()
    reference.precisions_cholesky_ = torch.linalg.inv(scales).mT.contiguous().numpy()
    scores = torch.from_numpy(reference.score_samples(z.double().numpy()))
    torch.testing.assert_close(prior.log_prob(z).double(), scores, rtol=1e-4, atol=1e-3)


def test_the_fit_finds_the_clusters():
    prior = fitted(draw(3000))
    order = prior.means[:, 0].argsort()
    torch.testing.assert_close(prior.means[order], torch.tensor(CENTRES)[:, None].expand(3, D), rtol=0, atol=0.2)
    torch.testing.assert_close(prior.weights[order], torch.tensor(SHARES), rtol=0, atol=0.03)
    assert float(prior.weights.sum()) == pytest.approx(1)


def test_the_density_of_one_dimension_integrates_to_1():
    z = torch.linspace(-40, 40, 20001)[:, None]
    assert float(torch.trapezoid(fitted(draw(600, 1)).log_prob(z).exp(), z[:, 0])) == pytest.approx(1, abs=1e-4)


def test_a_mixture_fits_clusters_better_than_one_gaussian():
    codes, held_out = draw(600), draw(600, key=1)
    one, three = (float(fitted(codes, components=[count]).log_prob(held_out).mean()) for count in (1, 3))
    assert three > one + 1


def test_draws_are_of_the_components_by_their_weights():
    prior = fitted(draw(600))
    z = prior.sample(DRAWS, noise())
    assert z.shape == (DRAWS, D)
    nearest = torch.cdist(z, prior.means).argmin(1)  # the clusters lie far apart
    for component in range(3):
        part, share = z[nearest == component], float(prior.weights[component])
        assert len(part) / DRAWS == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / DRAWS))
        covariance = prior.scales[component] @ prior.scales[component].T
        error = (part.mean(0) - prior.means[component]).abs()
        assert bool((error < 5 * (covariance.diagonal() / len(part)).sqrt()).all())
        torch.testing.assert_close(torch.cov(part.T), covariance, rtol=0.1, atol=0.03)


def test_draws_come_from_the_noise_alone():
    prior = fitted(draw(600))
    state = torch.get_rng_state()
    assert torch.equal(prior.sample(5, noise()), prior.sample(5, noise()))
    assert not torch.equal(prior.sample(5, noise()), prior.sample(5, generator("test_mixture other")))
    assert torch.equal(torch.get_rng_state(), state)


def test_few_iterations_are_a_choice_and_no_warning():
    overlapping = torch.randn(300, D, generator=generator("test_mixture overlapping"))
    assert bool(fitted(overlapping, iterations=1).log_prob(overlapping).isfinite().all())


def test_no_more_codes_are_fitted_than_the_config_says():
    codes = draw(600)
    order = torch.randperm(600, generator=generator("mixture codes", 4))
    few = fitted(codes, seed=4, codes=200)
    apart = codes[order[:200]]
    torch.testing.assert_close(few.weights @ few.means, apart.mean(0), rtol=0, atol=1e-4)
    assert not torch.allclose(apart.mean(0), codes.mean(0), atol=1e-2)
    assert not torch.equal(fitted(codes, seed=5, codes=200).means, few.means)


@pytest.mark.parametrize(("count", "limit"), [(2, 5000), (600, 2)])
def test_fewer_codes_than_components_are_refused(count, limit):
    with pytest.raises(ValueError, match="2 codes for 3 components"):
        fitted(draw(count), codes=limit)


def test_as_many_components_as_are_best_on_validation_are_taken():
    rows = []
    held_out = draw(400, key=1)
    prior = unfitted(components=[1, 3, 40]).fit(draw(300), held_out, 0, rows.append)
    assert [(row["epoch"], row["components"]) for row in rows] == [(1, 1), (2, 3), (3, 40)]
    nats = [row["validation_nats"] for row in rows]
    assert min(nats) == nats[1]  # one misses the clusters, forty follow single codes
    assert int(prior.weights.count_nonzero()) == 3
    assert -float(prior.log_prob(held_out).double().mean()) == pytest.approx(nats[1], rel=1e-6)
    assert bool(prior.sample(500, noise()).isfinite().all())
    alone = fitted(draw(300), components=[3])
    torch.testing.assert_close(prior.log_prob(held_out), alone.log_prob(held_out))


def test_each_iteration_is_scikit_learns():
    z = draw(800).double() + 50  # far from the origin, where careless sums of squares lose their digits
    start = expectation_maximisation(sufficient_statistics(z), 3, config(iterations=0), seed=1)
    weights, means, covariances = expectation_maximisation(sufficient_statistics(z), 3, config(iterations=4), seed=1)
    reference = GaussianMixture(
        3, max_iter=4, tol=0.0, reg_covar=1e-6 * float(z.var()), weights_init=start[0].numpy(),
        means_init=start[1].numpy(), precisions_init=torch.linalg.inv(start[2]).numpy(),
    )  # fmt: skip
    with pytest.warns(ConvergenceWarning):
        reference.fit(z.numpy())
    torch.testing.assert_close(weights, torch.from_numpy(reference.weights_), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(means, torch.from_numpy(reference.means_), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(covariances, torch.from_numpy(reference.covariances_), rtol=1e-5, atol=1e-7)


def test_shares_that_are_all_but_nothing_are_taken_for_less_than_that(monkeypatch):
    """Clusters so far apart that a share is e^-710 or so, a number that has lost its digits and costs much time."""
    z = torch.tensor([[0.0], [33.0]]) + torch.linspace(-1.5, 1.5, 400)[:, None, None]
    statistics = sufficient_statistics(z.flatten(0, 1).double())

    def fit():
        return expectation_maximisation(statistics, 2, config(iterations=5, shrinkage=0), seed=1)

    shares = []
    exponential = torch.Tensor.exp

    def recorded(tensor):
        shares.append(exponential(tensor))
        return shares[-1]

    monkeypatch.setattr(torch.Tensor, "exp", recorded)
    found = fit()
    assert shares
    assert all(float(share.min()) > 1e-300 for share in shares)
    monkeypatch.setattr("randomz.priors.mixture.FARTHEST", math.inf)
    for ours, exact in zip(found, fit(), strict=True):
        assert torch.equal(ours, exact)
    assert any(bool(((share > 0) & (share < 1e-307)).any()) for share in shares)


def test_covariances_are_drawn_towards_that_of_all_components():
    z = draw(800).double()
    weights, _, alone = expectation_maximisation(sufficient_statistics(z), 3, config(iterations=0), seed=1)
    _, _, drawn = expectation_maximisation(sufficient_statistics(z), 3, config(iterations=0, shrinkage=200.0), seed=1)
    counts = 800 * weights[:, None, None]
    ridge = 1e-6 * float(z.var()) * torch.eye(D)
    within = torch.einsum("c,cij->ij", weights, alone - ridge)
    torch.testing.assert_close(drawn - ridge, (counts * (alone - ridge) + 200 * within) / (counts + 200))
    _, _, one = expectation_maximisation(sufficient_statistics(z), 3, config(iterations=5, shrinkage=1e12), seed=1)
    torch.testing.assert_close(one, one[:1].expand_as(one))


def test_shrinkage_helps_where_codes_are_few():
    many = draw(2000, 12, key=3)

    def nats(shrinkage):
        return -float(fitted(draw(60, 12), components=[4], shrinkage=shrinkage).log_prob(many).double().mean())

    assert nats(10.0) < nats(0.0) - 1


def test_more_iterations_never_lower_the_likelihood():
    z = draw(800)
    nats = [-float(fitted(z, iterations=count).log_prob(z).double().mean()) for count in (1, 2, 4, 8, 16)]
    assert all(after <= before + 1e-6 for before, after in itertools.pairwise(nats))
    assert nats[-1] < nats[0]


def test_codes_that_are_all_alike_are_no_trap():
    prior = fitted(torch.full((50, D), 2.5))
    torch.testing.assert_close(prior.sample(20, noise()), torch.full((20, D), 2.5), rtol=0, atol=1e-2)
