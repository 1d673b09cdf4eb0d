import pytest
import torch
from torch.nn.functional import linear, silu

from randomz.networks import PIXELS, Decoder, Encoder
from randomz.params import NetworkConfig

D = 3


@pytest.fixture(params=[(1, 1), (2, 3), (3, 1)], ids=str)
def network(request):
    encoder_depth, decoder_depth = request.param
    return NetworkConfig(width=7, encoder_depth=encoder_depth, decoder_depth=decoder_depth, precision="float32")


def test_the_encoder_adds_what_each_hidden_layer_makes(network):
    encoder = Encoder(D, network)
    x = torch.rand(5, 1, 28, 28)
    first, *hidden, last = [(layer.weight, layer.bias) for layer in encoder.stack]
    h = silu(linear(2 * x.view(5, PIXELS) - 1, *first))
    for layer in hidden:
        h = h + silu(linear(h, *layer))
    assert len(hidden) == network.encoder_depth - 1
    torch.testing.assert_close(encoder(x), linear(h, *last))


@pytest.mark.parametrize("output_sees_z", [True, False])
def test_the_layers_of_the_decoder_see_z(network, output_sees_z):
    decoder = Decoder(D, network, output_sees_z=output_sees_z)
    z = torch.randn(5, D)
    first, *hidden, last = [(layer.weight, layer.bias) for layer in decoder.stack]
    h = silu(linear(z, *first))
    for layer in hidden:
        h = silu(linear(torch.cat([h, z], 1), *layer))
    assert len(hidden) == network.decoder_depth - 1
    seen = torch.cat([h, z], 1) if output_sees_z else h
    torch.testing.assert_close(decoder(z), linear(seen, *last).view(5, 1, 28, 28))


@pytest.mark.parametrize("images", [0, 1])
def test_few_images_keep_their_shape(network, images):
    assert Encoder(D, network)(torch.zeros(images, 1, 28, 28)).shape == (images, D)
    assert Decoder(D, network)(torch.zeros(images, D)).shape == (images, 1, 28, 28)
