"""The encoder and decoder stacks that the three models share, so that only the latent differs between them."""

from jaxtyping import Float
from torch import Tensor, nn

from randomz.params import NetworkConfig

PIXELS = 28 * 28


def _perceptron(inputs: int, outputs: int, network: NetworkConfig) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(network.depth):
        layers += [nn.Linear(inputs, network.width), nn.SiLU()]
        inputs = network.width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


class Encoder(nn.Module):
    """Images -> `outputs` numbers each."""

    def __init__(self, outputs: int, network: NetworkConfig) -> None:
        super().__init__()
        self.stack = _perceptron(PIXELS, outputs, network)

    def forward(self, x: Float[Tensor, "B 1 28 28"]) -> Float[Tensor, "B outputs"]:
        """Pixels in [0, 1] are centred on the way in: an ink share of 13 % would otherwise bias every unit."""
        output: Tensor = self.stack(x.flatten(1) * 2 - 1)
        return output


class Decoder(nn.Module):
    """`inputs` numbers -> the logits of an image."""

    def __init__(self, inputs: int, network: NetworkConfig) -> None:
        super().__init__()
        self.stack = _perceptron(inputs, PIXELS, network)

    def forward(self, z: Float[Tensor, "B inputs"]) -> Float[Tensor, "B 1 28 28"]:
        """Logits, not pixels: the likelihood says what a logit means."""
        output: Tensor = self.stack(z)
        return output.view(-1, 1, 28, 28)
