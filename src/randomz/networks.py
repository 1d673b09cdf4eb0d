"""The encoder and decoder stacks that the three models share, so that only the latent differs between them."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from randomz.params import NetworkConfig
from randomz.precision import in_training

PIXELS = 28 * 28


class Encoder(nn.Module):
    """Images -> `outputs` numbers each; a hidden layer adds to what it gets (He et al. 2016, arXiv:1512.03385)."""

    def __init__(self, outputs: int, network: NetworkConfig) -> None:
        super().__init__()
        self.precision = network.precision
        hidden = [nn.Linear(network.width, network.width) for _ in range(network.encoder_depth - 1)]
        self.stack = nn.ModuleList([nn.Linear(PIXELS, network.width), *hidden, nn.Linear(network.width, outputs)])

    def forward(self, x: Float[Tensor, "B 1 28 28"]) -> Float[Tensor, "B outputs"]:
        """Pixels in [0, 1] are centred on the way in: an ink share of 13 % would otherwise bias every unit."""
        first, *hidden, last = self.stack
        with in_training(self, self.precision, x.device):
            h = functional.silu(first(x.flatten(1) * 2 - 1))
            for layer in hidden:
                h = h + functional.silu(layer(h))
            output: Tensor = last(h)
        return output.float()


class Decoder(nn.Module):
    """`inputs` numbers -> the logits of an image; layers see z itself too (Dieng et al. 2019, arXiv:1807.04863).

    Every hidden layer does, and the last one where `output_sees_z`.
    """

    def __init__(self, inputs: int, network: NetworkConfig, *, output_sees_z: bool = True) -> None:
        super().__init__()
        self.precision = network.precision
        self.output_sees_z = output_sees_z
        hidden = [nn.Linear(network.width + inputs, network.width) for _ in range(network.decoder_depth - 1)]
        last = nn.Linear(network.width + inputs * output_sees_z, PIXELS)
        self.stack = nn.ModuleList([nn.Linear(inputs, network.width), *hidden, last])

    def forward(self, z: Float[Tensor, "B inputs"]) -> Float[Tensor, "B 1 28 28"]:
        """Logits, not pixels: the likelihood says what a logit means."""
        first, *hidden, last = self.stack
        with in_training(self, self.precision, z.device):
            h = functional.silu(first(z))
            for layer in hidden:
                h = functional.silu(layer(torch.cat([h, z], 1)))
            output: Tensor = last(torch.cat([h, z], 1) if self.output_sees_z else h)
        return output.float().view(-1, 1, 28, 28)
