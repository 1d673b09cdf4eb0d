"""Any picture of a digit -> 28 x 28 as MNIST has it (LeCun et al. 1998): light ink on black, scaled, centred.

Scanned digits of that data set were cropped, scaled into a box of 20 x 20 without a change of their proportions, and
moved so that their centre of mass stands in the middle of 28 x 28. A picture that is so already hardly changes.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageOps
from scipy import ndimage

SIDE, BOX = 28, 20
LARGEST = 1024  # pixels of a side that are looked at
CONTRAST = 8  # grey levels of 255 between paper and ink, below which there is no ink
CLEAN = 5 / 255  # share of the ink's darkness up to which a pixel is paper, however even the paper is
UNEVEN = 0.5  # the same, at most, for paper that is not even
SPECK = 0.02  # of the ink of the largest stroke: a blot with less than that is dust


class PictureError(ValueError):
    """A file holds no picture, or a picture without ink; the message names it."""


def read_digit(path: Path, *, invert: bool | None = None) -> UInt8[np.ndarray, "28 28"]:
    """The digit in a picture file. `invert` says whether its ink is darker than its paper; None: find out.

    Raises PictureError where the file cannot be read or has no ink.
    """
    try:
        with Image.open(path) as picture:
            levels = _grey(ImageOps.exif_transpose(picture))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or "not of a format that can be read, or broken"
        raise PictureError(f"{path}: {reason}; a picture such as a PNG or JPEG is accepted") from error
    try:
        return prepare_digit(levels, invert=invert)
    except ValueError as error:
        raise PictureError(f"{path}: {error}") from error


def prepare_digit(levels: Float[np.ndarray, "H W"], *, invert: bool | None = None) -> UInt8[np.ndarray, "28 28"]:
    """The digit in grey levels 0..255 of a picture. Raises ValueError where there is no ink."""
    ink = _ink(levels, invert=invert)
    rows, columns = (np.flatnonzero(ink.any(axis)) for axis in (1, 0))
    if not len(rows):
        raise ValueError("no ink was found; a digit that stands out from its paper is accepted")
    cropped = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = BOX / max(cropped.shape)
    height, width = (max(1, round(size * scale)) for size in cropped.shape)
    small = np.asarray(Image.fromarray(cropped).resize((width, height), Image.Resampling.LANCZOS)).clip(0)
    digit = np.zeros((SIDE, SIDE), np.uint8)
    top, left = (_offset(small.sum(1 - axis)) for axis in (0, 1))
    # Thin strokes fade where a picture shrinks: they are ink all the same.
    digit[top : top + height, left : left + width] = (255 * small / small.max()).round()
    return digit


def _grey(picture: Image.Image) -> Float[np.ndarray, "H W"]:
    """Grey levels 0..255. What is transparent gets a paper that its ink stands out from."""
    if picture.mode.startswith(("I", "F")):  # deep grey levels, which Pillow would cut off at 255
        deep = np.nan_to_num(np.asarray(picture, np.float32))
        span = float(np.ptp(deep)) or 1.0
        picture = Image.fromarray((deep - deep.min()) * np.float32(255 / span))
    elif picture.mode.endswith(("A", "a")) or "transparency" in picture.info:
        picture = _on_paper(picture.convert("RGBA"))
    else:
        picture = picture.convert("L").convert("F")
    picture.thumbnail((LARGEST, LARGEST))
    return np.asarray(picture, np.float32)


def _on_paper(picture: Image.Image) -> Image.Image:
    opacity = np.asarray(picture.getchannel("A"), np.float32) / 255
    levels = np.asarray(picture.convert("RGB").convert("L"), np.float32)
    mean = float((levels * opacity).sum() / max(1.0, float(opacity.sum())))
    paper = 0.0 if mean > 127 else 255.0  # noqa: PLR2004 (the middle of the scale)
    return Image.fromarray(levels * opacity + np.float32(paper) * (1 - opacity))


def _ink(levels: Float[np.ndarray, "H W"], *, invert: bool | None) -> Float[np.ndarray, "H W"]:
    """How much ink there is at each pixel, 0 to 1. The rim of the picture tells what is paper, and how even it is."""
    rim = levels[_rim(levels.shape)]
    paper = float(np.median(rim))
    if invert is None:
        invert = paper - float(levels.min()) > float(levels.max()) - paper
    raised = paper - levels if invert else levels - paper
    peak = float(raised.max())
    if peak < CONTRAST:
        return np.zeros_like(levels)
    ink = (raised / peak).clip(0, 1)
    noise = float(np.quantile(np.abs(rim - paper), 0.9)) / peak
    return _without_dust(np.where(ink > min(UNEVEN, max(CLEAN, 2 * noise)), ink, 0).astype(np.float32))


def _without_dust(ink: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
    """The ink of strokes; a speck far from them would move the box that is cropped."""
    blots, count = ndimage.label(ink > 0, structure=np.ones((3, 3)))
    mass = ndimage.sum_labels(ink, blots, np.arange(count + 1))
    mass[0] = 0  # the paper
    kept: np.ndarray = np.where((mass >= SPECK * mass.max())[blots], ink, 0)
    return kept


def _rim(shape: tuple[int, ...]) -> Bool[np.ndarray, "H W"]:
    rim = np.ones(shape, np.bool_)
    rim[1:-1, 1:-1] = False
    return rim


def _offset(mass: Float[np.ndarray, " n"]) -> int:
    """Where a row or column of this mass begins so that its centre stands in the middle, as far as there is room."""
    centre = float((mass * np.arange(len(mass))).sum() / mass.sum())
    return int(np.clip(round(SIDE / 2 - centre), 0, SIDE - len(mass)))
