"""Small grey images -> one compact PNG."""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

RULE = 222  # grey of the rules between images


def contact_sheet(images: UInt8[Tensor, "N H W"], columns: int) -> bytes:
    """A PNG of images as ink on white, a pixel each pixel: the browser enlarges them without blurring."""
    ink = 255 - images.numpy()
    count, height, width = ink.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1), RULE, np.uint8)
    for place, image in enumerate(ink):
        top, left = place // columns * (height + 1) + 1, place % columns * (width + 1) + 1
        sheet[top : top + height, left : left + width] = image
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "png", optimize=True)
    return buffer.getvalue()


def png_size(png: bytes) -> tuple[int, int]:
    """Width and height, as a PNG's header has them."""
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
