"""The one place where units are converted."""

import math

PIXELS = 28 * 28


def bits(nats: float) -> float:
    """Nats -> bits."""
    return nats / math.log(2)


def per_pixel(per_image: float) -> float:
    """A sum over the 784 pixels of an image -> a mean over them."""
    return per_image / PIXELS
