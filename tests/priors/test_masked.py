import pytest
import torch
from torch.nn import functional

from randomz.priors.masked import SLAB, MaskedLinear, cross_entropy_by_place, dropout
from randomz.seeding import generator

PLACES = (1, 3, SLAB, SLAB + 1, 2 * SLAB)


def noise(key=0):
    return generator("test_masked", key)


def layer(places, inputs=2, outputs=3):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = MaskedLinear(places, inputs, outputs).double()
    with torch.no_grad():
        made.bias.copy_(torch.randn(made.bias.shape, generator=noise(), dtype=torch.float64))
    return made


def dense(made, places):
    """The whole matrix, with zeros where nothing is stored."""
    rows = [functional.pad(weight, (0, places * made.inputs - weight.shape[1])) for weight in made.weights]
    return torch.cat(rows)


@pytest.mark.parametrize("places", PLACES)
def test_a_masked_layer_is_the_dense_layer_with_a_block_triangular_matrix(places):
    made = layer(places)
    x = torch.randn(5, places * 2, generator=noise(1), dtype=torch.float64)
    whole = dense(made, places)
    hidden = torch.kron(torch.triu(torch.ones(places, places), diagonal=1), torch.ones(3, 2)).bool()
    assert bool((whole[hidden] == 0).all())
    torch.testing.assert_close(made(x), functional.linear(x, whole, made.bias))


@pytest.mark.parametrize("places", PLACES)
def test_its_gradients_are_those_of_autograd_and_0_where_the_mask_hides(places):
    made = layer(places)
    x = torch.randn(5, places * 2, generator=noise(1), dtype=torch.float64, requires_grad=True)
    weigh = torch.randn(5, places * 3, generator=noise(2), dtype=torch.float64)
    asked = [x, made.bias, *made.weights]
    found = torch.autograd.grad((made(x) * weigh).sum(), asked)
    expected = torch.autograd.grad((functional.linear(x, dense(made, places), made.bias) * weigh).sum(), asked)
    for first, weight in zip(range(0, places, SLAB), made.weights, strict=True):
        last = min(first + SLAB, places)
        seen = torch.kron(torch.tril(torch.ones(last, last))[first:], torch.ones(3, 2))
        index = 2 + first // SLAB
        assert expected[index].shape == weight.shape
        torch.testing.assert_close(found[index], expected[index] * seen)
    torch.testing.assert_close(found[:2], expected[:2])


def test_a_place_alone_is_its_part_of_the_whole():
    made = layer(SLAB + 2)
    x = torch.randn(5, (SLAB + 2) * 2, generator=noise(1), dtype=torch.float64)
    for place in range(SLAB + 2):
        part = made(x)[:, place * 3 : (place + 1) * 3]
        torch.testing.assert_close(made.at(place, x[:, : (place + 1) * 2]), part)


def entropy_inputs(dtype=torch.float64):
    shapes = ((3, 7, 4), (3, 4, 5), (3, 1, 5))
    numbers = [torch.randn(shape, generator=noise(key), dtype=dtype) for key, shape in enumerate(shapes)]
    return [each.requires_grad_() for each in numbers], torch.randint(5, (3, 7), generator=noise(9))


def torchs(state, weight, bias, targets):
    return functional.cross_entropy(torch.baddbmm(bias, state, weight).flatten(0, 1), targets.flatten())


def test_the_cross_entropy_and_its_gradients_are_torchs():
    inputs, targets = entropy_inputs()
    found, expected = cross_entropy_by_place(*inputs, targets), torchs(*inputs, targets)
    torch.testing.assert_close(found, expected)
    # Scaled, as part of a larger loss would be.
    torch.testing.assert_close(torch.autograd.grad(found * 3, inputs), torch.autograd.grad(expected * 3, inputs))


def test_the_cross_entropy_takes_a_state_that_lies_grid_by_grid():
    inputs, targets = entropy_inputs()
    across = inputs[0].detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    assert not across.is_contiguous()
    found = torch.autograd.grad(cross_entropy_by_place(across, *inputs[1:], targets), across)
    torch.testing.assert_close(found, torch.autograd.grad(torchs(*inputs, targets), inputs[0]))


def test_the_cross_entropy_of_codes_all_but_impossible_is_finite():
    inputs, targets = entropy_inputs(torch.float32)
    with torch.no_grad():
        inputs[2].fill_(0).scatter_(2, targets[:, :1, None], -1000)
    mean = cross_entropy_by_place(*inputs, targets)
    assert float(mean.detach()) > 100
    assert all(bool(each.isfinite().all()) for each in torch.autograd.grad(mean, inputs))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_dropout_drops_its_share_and_keeps_the_mean(share):
    x = torch.ones(501, 799)  # no multiple of four
    kept = dropout(x, share, noise())
    assert kept.shape == x.shape
    assert set(kept.unique().tolist()) <= {0.0, float(torch.tensor(1 / (1 - share)))}
    spread = (share * (1 - share) / x.numel()) ** 0.5
    assert float((kept == 0).float().mean()) == pytest.approx(share, abs=5 * spread + 1e-5)
    assert bool((dropout(x, share, noise()) == kept).all())
    if share:
        assert not bool((dropout(x, share, noise(1)) == kept).all())
        columns = (kept == 0).float().mean(0)  # no column is spared
        assert float((columns - share).abs().max()) < 6 * (share * (1 - share) / 501) ** 0.5
