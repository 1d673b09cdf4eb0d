import math

import pytest
import torch
from synthetic import assert_every_parameter_learns, gradients, tiny_model

from randomz.batches import pixels
from randomz.seeding import generator

B, D = 5, 3


@pytest.fixture
def x(tiny_split):
    return pixels(tiny_split.images[:B])


def test_shapes(x):
    model, loss = tiny_model("ae")
    output = model(x, generator("test_ae"))
    assert output.z.shape == (B, D)
    assert output.logits.shape == (B, 1, 28, 28)
    assert {name: term.shape for name, term in loss(model, output, x).terms().items()} == {
        "total": (B,),
        "reconstruction": (B,),
    }
    assert model.embed(output.z).shape == (B, D)


def test_an_empty_batch_stays_empty():
    model, loss = tiny_model("ae")
    x = torch.zeros(0, 1, 28, 28)
    assert loss(model, model(x, generator("test_ae")), x).total.shape == (0,)
    assert model.decode(model.encode(x)).shape == (0, 1, 28, 28)


def test_with_unit_sigma_the_loss_is_half_the_squared_error(x):
    model, loss = tiny_model("ae", likelihood="gaussian", sigma=1.0)
    total = loss(model, model(x, generator("test_ae")), x).total
    squared_error = (x - model.decode(model.encode(x))).square().sum((1, 2, 3))
    torch.testing.assert_close(total, 0.5 * squared_error + 392 * math.log(2 * math.pi))


def test_the_loss_is_of_each_image_alone(x):
    model, loss = tiny_model("ae")
    noise = generator("test_ae")
    torch.testing.assert_close(
        loss(model, model(x, noise), x).total[2:3], loss(model, model(x[2:3], noise), x[2:3]).total
    )


def test_the_forward_pass_is_encode_then_decode_and_draws_nothing(x):
    model, _ = tiny_model("ae")
    noise = generator("test_ae")
    output = model(x, noise)
    assert torch.equal(noise.get_state(), generator("test_ae").get_state())
    torch.testing.assert_close(model.encode(x), output.z)
    torch.testing.assert_close(model.encode(x, noise), output.z)
    torch.testing.assert_close(model.decode(output.z), torch.sigmoid(output.logits))


@pytest.mark.parametrize("changes", [{}, {"likelihood": "gaussian", "sigma": "calibrated"}])
def test_reconstruction_reaches_everything(x, changes):
    model, loss = tiny_model("ae", **changes)
    terms = loss(model, model(x, generator("test_ae")), x)
    learned = {"likelihood"} if changes else set()
    assert (
        gradients(model, loss(model, model(x, generator("test_ae")), x).reconstruction)
        == {"encoder", "decoder"} | learned
    )
    assert_every_parameter_learns(model, terms.total)


def test_the_way_between_codes_starts_and_ends_at_them(x):
    model, _ = tiny_model("ae")
    a, b = model.encode(x[:2]), model.encode(x[2:4])
    torch.testing.assert_close(model.between(a, b, 0.0), a, rtol=0, atol=0)
    torch.testing.assert_close(model.between(a, b, 1.0), b, rtol=0, atol=0)
    torch.testing.assert_close(model.between(a, b, 0.25), 0.75 * a + 0.25 * b)


def test_learning_reconstructs_images(x):
    model, loss = tiny_model("ae")
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(300):
        optimiser.zero_grad()
        loss(model, model(x, generator("test_ae")), x).total.mean().backward()
        optimiser.step()
    with torch.no_grad():
        error = float((x - model.decode(model.encode(x))).square().mean())
    assert error < 0.2 * float((x - x.mean(0)).square().mean())
