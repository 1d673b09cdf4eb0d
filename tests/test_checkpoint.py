import io
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from randomz.checkpoint import load_tensors, save_tensors


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    return {
        "weight": torch.arange(6.0).reshape(2, 3),
        "step": torch.tensor(7),
        "images": torch.arange(16, dtype=torch.uint8).reshape(1, 4, 4),
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "empty": torch.zeros(0, 3),
    }


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_what_is_saved_is_loaded(tmp_path, tensors):
    path = tmp_path / "new" / "folder" / "state.safetensors"
    save_tensors(path, tensors)
    loaded = load_tensors(path)
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    assert names(path.parent) == ["state.safetensors"]


def test_transposed_and_trainable_tensors_are_saved_as_they_look(tmp_path):
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    save_tensors(tmp_path / "w", {"w": weight, "t": torch.arange(6.0).reshape(2, 3).t()})
    loaded = load_tensors(tmp_path / "w")
    assert torch.equal(loaded["w"], weight)
    assert torch.equal(loaded["t"], weight.t())
    assert not loaded["w"].requires_grad


def test_metadata_is_read_by_the_library(tmp_path, tensors):
    metadata = {"kind": "vae", "note": 'é "quoted"'}
    save_tensors(tmp_path / "a", tensors, metadata)
    with safe_open(tmp_path / "a", "pt") as file:
        assert file.metadata() == metadata
        assert set(file.keys()) == set(tensors)
    assert torch.equal(load_tensors(tmp_path / "a")["weight"], tensors["weight"])


def test_equal_content_gives_equal_bytes_whatever_the_name_and_the_order(tmp_path, tensors):
    # The library alone orders twelve keys at random: equal bytes by luck are one in 12!.
    metadata = {f"key{number}": "value" for number in range(12)}
    save_tensors(tmp_path / "a.safetensors", tensors, metadata)
    save_tensors(
        tmp_path / "another name",
        dict(reversed(tensors.items())),
        dict(reversed(metadata.items())),
    )
    first = (tmp_path / "a.safetensors").read_bytes()
    assert first == (tmp_path / "another name").read_bytes()
    assert int.from_bytes(first[:8], "little") % 8 == 0


def test_loaded_tensors_outlive_the_replacement_of_their_file(tmp_path):
    save_tensors(tmp_path / "a", {"x": torch.zeros(5)})
    old = load_tensors(tmp_path / "a")["x"]
    save_tensors(tmp_path / "a", {"x": torch.ones(5)})
    assert torch.equal(old, torch.zeros(5))
    assert torch.equal(load_tensors(tmp_path / "a")["x"], torch.ones(5))


@pytest.mark.parametrize("failing", ["fsync", "replace", "write"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, failing, error):
    path = tmp_path / "state.safetensors"
    save_tensors(path, {"x": torch.zeros(3)})
    before = path.read_bytes()

    def fail(*_args, **_kwargs):
        raise error

    class FailingFile(io.FileIO):
        def write(self, content):
            super().write(content[:10])
            raise error

    def open_failing(temporary: Path, mode: str) -> FailingFile:
        return FailingFile(temporary, mode)

    with monkeypatch.context() as patch:
        if failing == "fsync":
            patch.setattr(os, "fsync", fail)
        elif failing == "replace":
            patch.setattr(Path, "replace", fail)
        else:
            patch.setattr(Path, "open", open_failing)
        with pytest.raises(type(error)) as caught:
            save_tensors(path, {"x": torch.ones(3)})
    assert caught.value is error
    assert path.read_bytes() == before
    assert names(tmp_path) == ["state.safetensors"]


def test_the_file_is_complete_and_synced_before_it_gets_its_name(tmp_path, monkeypatch):
    path = tmp_path / "state.safetensors"
    replaced = Path.replace
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))

    def replace(temporary: Path, target: Path) -> Path:
        assert temporary.parent == target.parent
        assert synced == [temporary.stat().st_size]
        assert torch.equal(load_tensors(temporary)["x"], torch.ones(3))
        assert not target.exists()
        return replaced(temporary, target)

    monkeypatch.setattr(Path, "replace", replace)
    save_tensors(path, {"x": torch.ones(3)})
    assert path.exists()


@pytest.mark.parametrize("kept", [0, 5, 40, -1])
def test_a_truncated_file_is_one_clear_error(tmp_path, tensors, kept):
    path = tmp_path / "state.safetensors"
    save_tensors(path, tensors)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match="no whole safetensors file") as caught:
        load_tensors(path)
    assert str(path) in str(caught.value)
    assert f"{path.stat().st_size} bytes" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        load_tensors(tmp_path / "absent")
