"""Contact sheets: many small images side by side in one PNG, made without torch so that publishing starts fast."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from safetensors import safe_open
from safetensors.numpy import load_file

COLUMNS = 10  # images a row
GAP = 2  # pixels between two images
SCALE = 2  # a pixel is shown as this many squared
SAMPLES = "samples."  # the tensors of this prefix are one sampler's images each


def sheet(images: UInt8[np.ndarray, "N 28 28"], columns: int) -> UInt8[np.ndarray, "H W"]:
    """Images row by row, `columns` a row, on white."""
    count, height, width = images.shape
    rows = -(-count // columns)
    grid = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP), 255, np.uint8)
    for index, image in enumerate(images):
        top = GAP + index // columns * (height + GAP)
        left = GAP + index % columns * (width + GAP)
        grid[top : top + height, left : left + width] = image
    return grid.repeat(SCALE, axis=0).repeat(SCALE, axis=1)


def interleave(
    originals: UInt8[np.ndarray, "N 28 28"], reconstructions: UInt8[np.ndarray, "N 28 28"], columns: int
) -> UInt8[np.ndarray, "2*N 28 28"]:
    """A row of originals, a row of their reconstructions, and so on."""
    rows: list[np.ndarray] = []
    for start in range(0, len(originals), columns):
        block = slice(start, start + columns)
        rows += [originals[block], reconstructions[block]]
    return np.concatenate(rows)


def sheet_names(path: Path) -> list[str]:
    """The file names of the sheets that a file of pictures gives, without reading an image."""
    with safe_open(path, "np") as file:
        samplers = sorted(key.removeprefix(SAMPLES) for key in file.keys() if key.startswith(SAMPLES))  # noqa: SIM118
    return ["reconstructions.png", "interpolation.png", *(f"samples-{sampler}.png" for sampler in samplers)]


def draw_sheets(path: Path, folder: Path) -> list[Path]:
    """Write the sheets of a file of pictures (an output of the stage evaluate) into `folder`."""
    pictures = load_file(path)
    folder.mkdir(parents=True, exist_ok=True)
    return [_write(folder / name, _sheet(name, pictures)) for name in sheet_names(path)]


def _sheet(name: str, pictures: dict[str, np.ndarray]) -> UInt8[np.ndarray, "H W"]:
    if name == "reconstructions.png":
        return _reconstructions(pictures["originals"], pictures["reconstructions"])
    if name == "interpolation.png":
        steps = pictures["interpolation"].shape[1]
        return sheet(pictures["interpolation"].reshape(-1, 28, 28), steps)
    return sheet(pictures[SAMPLES + name.removeprefix("samples-").removesuffix(".png")], COLUMNS)


def sheet_steps(path: Path) -> dict[str, list[int]]:
    """The epochs of each sheet that a file of snapshots gives."""
    with safe_open(path, "np") as file:
        epochs = [int(epoch) for epoch in file.get_tensor("epochs")]
    return {"reconstructions": epochs, "samples": epochs}


def draw_steps(path: Path) -> Iterator[tuple[str, int, UInt8[np.ndarray, "H W"]]]:
    """The sheets of a file of snapshots (an output of the stage train), each with its name and epoch."""
    pictures = load_file(path)
    originals = pictures["originals"]
    for index, epoch in enumerate(pictures["epochs"]):
        yield "reconstructions", int(epoch), _reconstructions(originals, pictures["reconstructions"][index])
        yield "samples", int(epoch), sheet(pictures["samples"][index], COLUMNS)


def _reconstructions(
    originals: UInt8[np.ndarray, "N 28 28"], reconstructions: UInt8[np.ndarray, "N 28 28"]
) -> UInt8[np.ndarray, "H W"]:
    columns = min(COLUMNS, len(originals))
    return sheet(interleave(originals, reconstructions, columns), columns)


def _write(path: Path, grey: UInt8[np.ndarray, "H W"]) -> Path:
    from matplotlib.image import imsave  # noqa: PLC0415 (half a second, for what is seldom drawn)

    imsave(path, grey[..., None].repeat(3, axis=-1))
    return path
