import math

import pytest
import torch
from synthetic import assert_every_parameter_learns, gradients, tiny_model
from torch.distributions import Normal, kl_divergence

from randomz.batches import pixels
from randomz.seeding import generator

B, D = 5, 3


def noise():
    return generator("test_vae")


@pytest.fixture
def x(tiny_split):
    return pixels(tiny_split.images[:B])


def test_shapes(x):
    model, loss = tiny_model("vae")
    output = model(x, noise())
    assert output.z.shape == output.posterior.mu.shape == output.posterior.logvar.shape == (B, D)
    assert output.logits.shape == (B, 1, 28, 28)
    terms = loss(model, output, x).terms()
    assert {name: term.shape for name, term in terms.items()} == {
        "total": (B,),
        "reconstruction": (B,),
        "kl": (B,),
    }


def test_an_empty_batch_stays_empty():
    model, loss = tiny_model("vae")
    x = torch.zeros(0, 1, 28, 28)
    assert loss(model, model(x, noise()), x).total.shape == (0,)


@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
def test_the_total_is_reconstruction_and_beta_times_kl_summed_over_dimensions(x, beta):
    model, loss = tiny_model("vae", beta=beta)
    output = model(x, noise())
    terms = loss(model, output, x)
    posterior = Normal(output.posterior.mu, output.posterior.sigma)
    torch.testing.assert_close(terms.kl, kl_divergence(posterior, Normal(0.0, 1.0)).sum(1))
    torch.testing.assert_close(terms.reconstruction, model.likelihood.nll(output.logits, x))
    torch.testing.assert_close(terms.total, terms.reconstruction + beta * terms.kl)


def test_the_kl_weighs_nothing_where_beta_is_0(x):
    model, loss = tiny_model("vae", beta=0.0)
    terms = loss(model, model(x, noise()), x)
    torch.testing.assert_close(terms.total, terms.reconstruction, rtol=0, atol=0)
    assert bool((terms.kl > 0).all())


def test_encoding_with_noise_is_a_draw_and_without_it_the_mean(x):
    model, _ = tiny_model("vae")
    posterior = model.posterior(x)
    torch.testing.assert_close(model.encode(x), posterior.mu, rtol=0, atol=0)
    eps = torch.randn(B, D, generator=noise())
    torch.testing.assert_close(model.encode(x, noise()), posterior.mu + posterior.sigma * eps)
    torch.testing.assert_close(model.encode(x, noise()), model(x, noise()).z)
    draws = torch.stack([model.encode(x, generator("test_vae draw", index)) for index in range(2000)])
    standard_error = posterior.sigma / math.sqrt(len(draws))
    assert bool(((draws.mean(0) - posterior.mu).abs() < 5 * standard_error).all())
    assert bool(((draws.std(0) - posterior.sigma).abs() < 5 * standard_error / math.sqrt(2)).all())


def test_the_forward_pass_decodes_its_draw(x):
    model, _ = tiny_model("vae")
    output = model(x, noise())
    torch.testing.assert_close(model.decode(output.z), torch.sigmoid(output.logits))


def test_the_same_noise_gives_the_same_output_and_other_noise_another(x):
    model, _ = tiny_model("vae")
    assert torch.equal(model(x, noise()).logits, model(x, noise()).logits)
    assert not torch.equal(model(x, noise()).logits, model(x, generator("test_vae", 1)).logits)


def test_kl_reaches_the_encoder_alone_and_reconstruction_both(x):
    model, loss = tiny_model("vae")
    assert gradients(model, loss(model, model(x, noise()), x).kl) == {"encoder"}
    assert gradients(model, loss(model, model(x, noise()), x).reconstruction) == {"encoder", "decoder"}


@pytest.mark.parametrize("changes", [{}, {"likelihood": "gaussian", "sigma": "calibrated"}])
def test_every_parameter_learns(x, changes):
    model, loss = tiny_model("vae", **changes)
    assert_every_parameter_learns(model, loss(model, model(x, noise()), x).total)


def test_the_reconstruction_moves_both_halves_of_the_encoders_output(x):
    model, loss = tiny_model("vae")
    loss(model, model(x, noise()), x).reconstruction.mean().backward()
    last = model.encoder.stack[-1].bias.grad
    assert bool(last[:D].ne(0).all())  # mu
    assert bool(last[D:].ne(0).all())  # log sigma^2, by the reparameterisation


def test_the_way_between_codes_starts_and_ends_at_them(x):
    model, _ = tiny_model("vae")
    a, b = model.encode(x[:2]), model.encode(x[2:4])
    torch.testing.assert_close(model.between(a, b, 0.0), a, rtol=0, atol=0)
    torch.testing.assert_close(model.between(a, b, 1.0), b, rtol=0, atol=0)
