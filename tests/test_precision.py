import warnings
from functools import partial

import pytest
import torch
from synthetic import blobs, tiny_params

from randomz import precision
from randomz.models import load_kind
from randomz.networks import Decoder, Encoder
from randomz.params import NetworkConfig
from randomz.precision import multiply_seconds, warn_where_slow
from randomz.trainer import Data, build_seeded, fit

CPU = torch.device("cpu")


def networks(name):
    torch.manual_seed(0)
    network = NetworkConfig(width=64, encoder_depth=2, decoder_depth=3, precision=name)
    return Encoder(8, network), Decoder(8, network)


def test_layers_in_training_are_rounded_to_eight_bits_and_what_they_give_is_float32():
    x, z = torch.rand(20, 1, 28, 28), torch.randn(20, 8)
    for coarse, fine, given in zip(networks("bfloat16"), networks("float32"), (x, z), strict=True):
        found, expected = coarse(given), fine(given)
        assert found.dtype == torch.float32
        assert torch.equal(found, found.bfloat16().float())
        assert not torch.equal(found, expected)
        # A bfloat16 is off by 2 ** -9 of its size at most; so many layers add up to a few times that.
        torch.testing.assert_close(found, expected, rtol=0, atol=2**-6)


def test_an_evaluation_is_in_float32():
    x, z = torch.rand(20, 1, 28, 28), torch.randn(20, 8)
    for coarse, fine, given in zip(networks("bfloat16"), networks("float32"), (x, z), strict=True):
        assert torch.equal(coarse.eval()(given), fine.eval()(given))


@pytest.mark.parametrize("name", ["ae", "vae", "vqvae"])
def test_training_in_bfloat16_goes_where_that_in_float32_goes(name):
    data = Data(train=blobs(100, 1), validation=blobs(30, 2))
    ended = {}
    for name_of in ("float32", "bfloat16"):
        params = tiny_params(network={"precision": name_of})
        config = params.model(name)
        kind = load_kind(config.kind)
        model = build_seeded(partial(kind.build, config, params.network), 0)
        first, last = fit(model, kind.loss, data, params.train, 0)
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters() if p.grad is not None)
        assert last["validation_total"] < first["validation_total"]
        ended[name_of] = last["validation_total"]
    assert ended["bfloat16"] != ended["float32"]
    assert ended["bfloat16"] == pytest.approx(ended["float32"], rel=0.01)


def test_a_product_takes_time():
    assert 0 < multiply_seconds(torch.float32, CPU) < 1


@pytest.mark.parametrize(
    ("name", "seconds", "said"),
    [
        ("float32", {}, []),
        ("bfloat16", {torch.float32: 2.0, torch.bfloat16: 1.0}, []),
        ("bfloat16", {torch.float32: 1.0, torch.bfloat16: 2.0}, ["0.50 times"]),
    ],
    ids=["not asked for", "faster", "slower"],
)
def test_bfloat16_where_it_is_slow_is_one_warning(name, seconds, said, monkeypatch):
    monkeypatch.setattr(precision, "multiply_seconds", lambda dtype, _: seconds[dtype])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_where_slow(name, CPU)
    assert len(caught) == len(said)
    for warning, words in zip(caught, said, strict=True):
        assert "network.precision: found bfloat16" in str(warning.message)
        assert words in str(warning.message)
