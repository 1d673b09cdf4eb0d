from itertools import pairwise

import numpy as np
import pytest
import torch
from synthetic import assert_every_parameter_learns, gradients, tiny_model, tiny_params

from randomz.batches import pixels
from randomz.models.vqvae import Quantiser, code_sums, kmeans, nearest_code, straight_through
from randomz.seeding import generator

B, GRID, K, D, M = 5, 2, 6, 4, 40


def noise(key=0):
    return generator("test_vqvae", key)


def quantiser(**changes):
    """A quantiser of 6 entries of 4 numbers, 0 to 23, whatever a model would start from."""
    made = Quantiser(tiny_params(models={"vqvae": changes}).model("vqvae"))
    with torch.no_grad():
        made.codebook.copy_(torch.arange(float(K * D)).view(K, D))
        made.ema_count.fill_(2.0)
        made.ema_sum.copy_(2.0 * made.codebook)
    return made


@pytest.fixture
def x(tiny_split):
    return pixels(tiny_split.images[:B])


@pytest.fixture
def z_e():
    return torch.randn(M, D, generator=generator("test_vqvae z_e"))


@pytest.fixture
def codebook():
    return torch.randn(K, D, generator=generator("test_vqvae codebook"))


def error(z_e, codebook):
    """Mean squared distance to the nearest entry."""
    return float(torch.cdist(z_e, codebook).min(1).values.square().mean())


def test_shapes(x):
    model, loss = tiny_model("vqvae")
    output = model(x, noise())
    assert output.z_e.shape == output.e.shape == (B, GRID, GRID, D)
    assert output.codes.shape == (B, GRID, GRID)
    assert output.logits.shape == (B, 1, 28, 28)
    terms = loss(model, output, x).terms()
    assert {name: term.shape for name, term in terms.items()} == dict.fromkeys(
        ("total", "reconstruction", "codebook", "commitment"), (B,)
    )
    assert model.embed(output.codes).shape == (B, GRID * GRID * D)


def test_the_nearest_code_is_that_of_a_double_loop(z_e, codebook):
    slow = []
    for vector in z_e.tolist():
        distances = [sum((a - b) ** 2 for a, b in zip(vector, entry, strict=True)) for entry in codebook.tolist()]
        slow.append(distances.index(min(distances)))
    assert nearest_code(z_e, codebook).tolist() == slow
    assert len(set(slow)) > 2
    assert torch.equal(nearest_code(z_e.view(5, 2, 4, D), codebook), torch.tensor(slow).view(5, 2, 4))


@pytest.mark.parametrize("entries", [32, 96, 100, 512])
def test_the_nearest_of_many_codes_has_the_least_distance(entries):
    z_e = torch.randn(300, D, generator=generator("test_vqvae many z_e"))
    codebook = torch.randn(entries, D, generator=generator("test_vqvae many codes"))
    codes = nearest_code(z_e, codebook)
    assert torch.equal(codes, torch.cdist(z_e.double(), codebook.double()).argmin(1))
    assert len(codes.unique()) > 20


def test_among_equal_distances_the_first_code_is_taken():
    codebook = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    assert nearest_code(torch.tensor([[0.0, 7.0], [0.5, 0.0], [-0.5, 0.0]]), codebook).tolist() == [0, 0, 1]


def test_an_entry_is_its_own_nearest_code(codebook):
    assert nearest_code(codebook, codebook).tolist() == list(range(K))


def test_straight_through_has_the_value_of_one_and_the_gradient_of_the_other(z_e, codebook):
    a, b = z_e.clone().requires_grad_(), codebook[nearest_code(z_e, codebook)].clone().requires_grad_()
    z_q = straight_through(a, b)
    torch.testing.assert_close(z_q, b)
    incoming = torch.randn(M, D, generator=generator("test_vqvae incoming"))
    gradient_a, gradient_b = torch.autograd.grad(z_q, [a, b], incoming, allow_unused=True)
    assert torch.equal(gradient_a, incoming)
    assert gradient_b is None


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_each_term_reaches_its_own_part(x, codebook):
    model, loss = tiny_model("vqvae", codebook=codebook)

    def parts(term):
        return gradients(model, getattr(loss(model, model(x, noise()), x), term))

    assert parts("reconstruction") == {"encoder", "decoder"}
    assert parts("commitment") == {"encoder"}
    if codebook == "gradient":
        assert parts("codebook") == {"quantiser"}
    else:
        assert not loss(model, model(x, noise()), x).codebook.requires_grad


def test_the_decoders_gradient_reaches_the_encoder_unchanged(x):
    model, loss = tiny_model("vqvae", codebook="gradient")
    entered = []
    model.decoder.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    output = model(x, noise())
    at_decoder, at_encoder = torch.autograd.grad(loss(model, output, x).reconstruction.sum(), [entered[0], output.z_e])
    assert torch.equal(at_decoder, at_encoder.flatten(1))
    assert bool(at_decoder.ne(0).any())


def test_codebook_and_commitment_are_squared_distances_summed_over_the_grid(x):
    model, loss = tiny_model("vqvae")
    output = model(x, noise())
    z_e, entries = (tensor.detach().numpy() for tensor in (output.z_e, model.quantiser.codebook))
    distances = ((z_e - entries[output.codes.numpy()]) ** 2).reshape(B, -1).sum(1)
    terms = loss(model, output, x)
    np.testing.assert_allclose(terms.codebook.detach(), distances, rtol=1e-5)
    np.testing.assert_allclose(terms.commitment.detach(), distances, rtol=1e-5)


@pytest.mark.parametrize(("codebook", "weight"), [("ema", 0.0), ("gradient", 1.0)])
def test_the_total_weighs_its_terms(x, codebook, weight):
    model, loss = tiny_model("vqvae", codebook=codebook, beta=0.3)
    terms = loss(model, model(x, noise()), x)
    torch.testing.assert_close(terms.total, terms.reconstruction + weight * terms.codebook + 0.3 * terms.commitment)


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_every_parameter_learns(x, codebook):
    model, loss = tiny_model("vqvae", codebook=codebook, likelihood="gaussian", sigma="calibrated")
    assert ("quantiser.codebook" in dict(model.named_parameters())) == (codebook == "gradient")
    assert_every_parameter_learns(model, loss(model, model(x, noise()), x).total)


def test_only_the_entries_in_use_get_a_gradient(x):
    model, loss = tiny_model("vqvae", codebook="gradient")
    output = model(x, noise())
    loss(model, output, x).codebook.sum().backward()
    moved = model.quantiser.codebook.grad.ne(0).any(1)
    assert moved.nonzero().flatten().tolist() == output.codes.unique().tolist()


def test_code_sums_are_products_with_a_one_hot_matrix(z_e, codebook):
    codes = nearest_code(z_e, codebook)
    one_hot = torch.nn.functional.one_hot(codes, K).float()
    counts, sums = code_sums(z_e, codes, K)
    torch.testing.assert_close(counts, one_hot.sum(0), rtol=0, atol=0)
    torch.testing.assert_close(sums, one_hot.T @ z_e)


def test_kmeans_never_raises_the_quantisation_error(z_e, codebook):
    errors = [error(z_e, kmeans(z_e, codebook, iterations)) for iterations in range(8)]
    assert all(after <= before + 1e-6 for before, after in pairwise(errors))
    assert errors[-1] < 0.8 * errors[0]


def test_kmeans_finds_the_means_of_separate_clusters():
    centres = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
    z_e = (centres[:, None] + torch.randn(3, 30, 2, generator=generator("test_vqvae clusters"))).flatten(0, 1)
    found = kmeans(z_e, z_e[[0, 30, 60]], 5)
    torch.testing.assert_close(found, z_e.view(3, 30, 2).mean(1))


def test_kmeans_leaves_an_entry_that_nothing_chose_where_it_is(z_e, codebook):
    far = torch.full((1, D), 1e3)
    assert torch.equal(kmeans(z_e, torch.cat([codebook, far]), 3)[-1:], far)


@pytest.mark.parametrize("start", ["kmeans", "sample"])
@pytest.mark.parametrize("learns_by", ["ema", "gradient"])
def test_the_codebook_starts_from_encoder_vectors(z_e, start, learns_by):
    made = quantiser(start=start, codebook=learns_by)
    made.start(z_e, noise())
    drawn = z_e[torch.randint(M, (K,), generator=noise())]
    expected = drawn if start == "sample" else kmeans(z_e, drawn, 10)
    torch.testing.assert_close(made.codebook.detach(), expected, rtol=0, atol=0)
    torch.testing.assert_close(made.ema_sum / made.ema_count[:, None], expected)
    assert bool((made.ema_count >= made.config.restart).all())


def test_kmeans_starts_nearer_than_a_sample(z_e):
    errors = {}
    for start in ("kmeans", "sample"):
        made = quantiser(start=start)
        made.start(z_e, noise())
        errors[start] = error(z_e, made.codebook)
    assert errors["kmeans"] < errors["sample"]


def test_a_model_starts_from_its_own_encoder_vectors(tiny_split):
    model, _ = tiny_model("vqvae", start="sample")
    x = pixels(tiny_split.images)
    model.start(x, noise())
    vectors = model.z_e(x).detach().flatten(0, 2)
    assert bool((torch.cdist(model.quantiser.codebook, vectors).min(1).values < 1e-3).all())


def test_running_means_are_those_of_numpy(z_e):
    made = quantiser(decay=0.8, restart=0.0)
    codebook, counts, sums = (t.numpy().astype(np.float64) for t in (made.codebook, made.ema_count, made.ema_sum))
    for step in range(3):
        shifted = z_e + 5.0 * step
        codes = nearest_code(shifted, made.codebook)
        made.update(shifted, codes, noise(step))
        for entry in range(K):
            chosen = shifted.numpy()[codes.numpy() == entry].astype(np.float64)
            counts[entry] = 0.8 * counts[entry] + 0.2 * len(chosen)
            sums[entry] = 0.8 * sums[entry] + 0.2 * chosen.sum(0)
            codebook[entry] = sums[entry] / counts[entry]
        np.testing.assert_allclose(made.ema_count, counts, rtol=1e-5)
        np.testing.assert_allclose(made.ema_sum, sums, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(made.codebook, codebook, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("learns_by", ["ema", "gradient"])
def test_dead_entries_become_encoder_vectors_and_live_ones_do_not(z_e, learns_by):
    made = quantiser(decay=0.5, restart=1.5, codebook=learns_by)
    before = made.codebook.detach().clone()
    codes = torch.arange(M) % 2 + 1  # entries 1 and 2 are used, the counts of the others fall to 1
    made.update(z_e, codes, noise())
    dead = [0, 3, 4, 5]
    for entry in dead:
        assert bool((made.codebook[entry] == z_e).all(1).any())
    assert not bool((before[dead] == made.codebook.detach()[dead]).all(1).any())
    assert made.ema_count[dead].tolist() == [pytest.approx(M / K)] * 4
    torch.testing.assert_close(made.ema_sum[dead], made.codebook.detach()[dead] * (M / K))
    assert made.ema_count[[1, 2]].tolist() == [11.0, 11.0]  # (2 + 20) / 2
    live = before[[1, 2]]
    if learns_by == "ema":
        used = torch.stack([z_e[codes == 1].sum(0), z_e[codes == 2].sum(0)])
        live = (2.0 * live + used) / 22
    torch.testing.assert_close(made.codebook.detach()[[1, 2]], live)


@pytest.mark.parametrize("learns_by", ["ema", "gradient"])
def test_a_restart_of_0_never_replaces(z_e, learns_by):
    made = quantiser(decay=0.1, restart=0.0, codebook=learns_by)
    before = made.codebook.detach().clone()
    for step in range(30):
        made.update(z_e, torch.zeros(M, dtype=torch.int64), noise(step))
    assert float(made.ema_count[1:].max()) < 1e-20
    kept = slice(0, K) if learns_by == "gradient" else slice(1, 6)
    if learns_by == "gradient":
        torch.testing.assert_close(made.codebook.detach()[kept], before[kept], rtol=0, atol=0)
    else:
        assert not any(bool((made.codebook[entry] == z_e).all(1).any()) for entry in range(1, K))


def test_an_unused_entry_stays_where_it_is_while_its_count_can_be_told(z_e):
    made = quantiser(decay=0.5, restart=0.0)
    before = made.codebook.clone()
    for step in range(10):
        made.update(z_e, torch.zeros(M, dtype=torch.int64), noise(step))
    torch.testing.assert_close(made.codebook[1:], before[1:])


def test_after_a_step_the_running_means_have_seen_its_output(x):
    model, _ = tiny_model("vqvae", decay=0.5, restart=0.0)
    output = model(x, noise())
    model.after_step(output, noise())
    counts = torch.bincount(output.codes.flatten(), minlength=K)
    torch.testing.assert_close(model.quantiser.ema_count, 0.5 * torch.ones(K) + 0.5 * counts)


def test_diagnostics_of_even_use_and_of_one_code_only():
    model, _ = tiny_model("vqvae")
    model.quantiser.ema_count.fill_(3.0)
    assert model.diagnostics() == {"dead_codes": 0.0, "running_perplexity": pytest.approx(K)}
    model.quantiser.ema_count.copy_(torch.tensor([9.0, 0, 0, 0, 0, 0]))
    assert model.diagnostics() == {"dead_codes": 5.0, "running_perplexity": pytest.approx(1)}


def test_codes_decode_to_what_the_forward_pass_gave(x):
    model, _ = tiny_model("vqvae")
    output = model(x, noise())
    codes = model.encode(x)
    assert torch.equal(codes, output.codes)
    assert torch.equal(model.encode(x, noise()), codes)
    torch.testing.assert_close(model.decode(codes), torch.sigmoid(output.logits))
    torch.testing.assert_close(model.embed(codes), output.e.flatten(1))


def test_the_way_between_codes_starts_and_ends_at_them(x):
    model, _ = tiny_model("vqvae")
    a, b = model.encode(x[:2]), model.encode(x[2:4])
    assert torch.equal(model.between(a, b, 0.0), a)
    assert torch.equal(model.between(a, b, 1.0), b)
    halfway = model.between(a, b, 0.5)
    assert halfway.dtype == torch.int64
    middle = 0.5 * (model.quantiser.codebook[a] + model.quantiser.codebook[b])
    assert torch.equal(halfway, nearest_code(middle, model.quantiser.codebook))
