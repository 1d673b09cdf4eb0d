import json

import pytest
import torch
from torch import nn

from randomz.optimiser import AdamW
from randomz.resume import (
    Checkpoints,
    identity_of,
    open_checkpoints,
    restore,
    training_state,
    under_prefix,
    with_prefix,
)

CPU = torch.device("cpu")


def state(epoch):
    return {"network.weight": torch.full((3, 2), float(epoch)), "optimiser.0.step": torch.tensor(epoch)}


def rows(epochs):
    return [{"seed": 3, "epoch": epoch, "loss": 1 / (epoch + 2), "components": None} for epoch in range(1, epochs + 1)]


@pytest.fixture
def checkpoints(tmp_path):
    """Three epochs of a fit."""
    found = Checkpoints(tmp_path / "fit")
    for epoch in (1, 2, 3):
        found.save(state(epoch), rows(epoch))
    return found


def files(checkpoints):
    return sorted(checkpoints.folder.iterdir())


def test_what_is_saved_last_is_loaded_to_the_bit(checkpoints):
    saved = checkpoints.load()
    assert saved.rows == rows(3)
    assert json.dumps(saved.rows) == json.dumps(rows(3))  # types too: a history is written from them
    assert saved.tensors.keys() == state(3).keys()
    for name, tensor in state(3).items():
        assert saved.tensors[name].dtype == tensor.dtype
        assert torch.equal(saved.tensors[name], tensor)


def test_two_generations_are_kept(checkpoints):
    assert [file.name.partition("-")[0] for file in files(checkpoints)] == ["000002", "000003"]


def test_the_hundredth_epoch_follows_the_ninth(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for epoch in (9, 10, 99, 100):
        checkpoints.save(state(epoch), rows(epoch))
        assert len(checkpoints.load().rows) == epoch


def test_before_the_first_there_is_none(tmp_path):
    assert Checkpoints(tmp_path / "nothing").load() is None


def cut(content):
    return content[: len(content) // 2]


def flip(content):
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("damage", [cut, flip, lambda _: b"", lambda content: content + b"\0"])
def test_of_a_damaged_checkpoint_the_one_before_is_used(checkpoints, damage, capsys):
    newest = files(checkpoints)[1]
    newest.write_bytes(damage(newest.read_bytes()))
    assert checkpoints.load().rows == rows(2)
    assert capsys.readouterr().err == f"{newest}: is damaged; the checkpoint before it is used\n"
    assert not newest.exists()
    checkpoints.save(state(3), rows(3))
    assert checkpoints.load().rows == rows(3)


def test_when_all_are_damaged_there_is_none(checkpoints):
    for file in files(checkpoints):
        file.write_bytes(cut(file.read_bytes()))
    assert checkpoints.load() is None
    assert files(checkpoints) == []


def test_what_a_killed_write_leaves_is_no_checkpoint(checkpoints):
    newest = files(checkpoints)[1]
    newest.with_name(f".{newest.name}.0123abcd.tmp").write_bytes(newest.read_bytes()[:50])
    assert checkpoints.load().rows == rows(3)
    checkpoints.clear()
    assert not checkpoints.folder.exists()


def test_parts_have_their_own(checkpoints):
    part = checkpoints.within("seed-1")
    assert part.load() is None
    part.save(state(1), rows(1))
    assert (part.load().rows, checkpoints.load().rows) == (rows(1), rows(3))
    checkpoints.clear()
    assert part.load() is None


def test_checkpoints_of_the_same_identity_are_found_and_said(tmp_path, capsys):
    folder = tmp_path / "train@ae"
    open_checkpoints(folder, {"rate": 1.0}).within("seed-0").save(state(1), rows(1))
    assert capsys.readouterr().err == ""
    assert open_checkpoints(folder, {"rate": 1.0}).within("seed-0").load().rows == rows(1)
    assert capsys.readouterr().err.startswith("train@ae: goes on from what an unfinished run left in ")


def test_checkpoints_of_another_identity_are_not_found_and_removed(tmp_path, capsys):
    old = open_checkpoints(tmp_path, {"rate": 1.0})
    old.within("seed-0").save(state(1), rows(1))
    assert open_checkpoints(tmp_path, {"rate": 2.0}).within("seed-0").load() is None
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == ""


def test_an_identity_follows_params_files_and_device(tmp_path):
    data = tmp_path / "data"
    data.write_text("images")
    identity = identity_of({"epochs": 3}, [data], CPU)
    assert identity == identity_of({"epochs": 3}, [data], CPU)
    assert identity["code"]["randomz.resume"]
    assert identity != identity_of({"epochs": 4}, [data], CPU)
    assert identity != identity_of({"epochs": 3}, [data], torch.device("cuda"))
    data.write_text("other images")
    assert identity != identity_of({"epochs": 3}, [data], CPU)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 7)
        self.unused = nn.Parameter(torch.zeros(2))
        self.register_buffer("mean", torch.zeros(7))

    def step(self, optimiser, number):
        x = torch.linspace(-1, 1, 20).reshape(4, 5) * number
        hidden = self.first(x)
        self.mean.lerp_(hidden.detach().mean(0), 0.1)
        optimiser.zero_grad()
        hidden.square().mean().backward()
        optimiser.step(0.1)


def network():
    made = Network()
    return made, AdamW(made.parameters(), weight_decay=0.01, betas=(0.9, 0.99))


def test_a_restored_network_takes_the_same_steps(tmp_path):
    first, optimiser = network()
    for number in (1, 2):
        first.step(optimiser, number)
    Checkpoints(tmp_path).save(training_state(first, optimiser), rows(1))
    second, other = network()
    restore(second, other, Checkpoints(tmp_path).load().tensors)
    for number in (3, 4):
        first.step(optimiser, number)
        second.step(other, number)
    after, again = training_state(first, optimiser), training_state(second, other)
    assert after.keys() == again.keys()
    assert {"network.mean", "network.first.weight", "optimiser.1.exp_avg", "optimiser.1.step"} < after.keys()
    for name, tensor in after.items():
        assert torch.equal(tensor, again[name]), name


def test_a_state_of_another_network_is_refused():
    first, optimiser = network()
    tensors = {name: tensor for name, tensor in training_state(first, optimiser).items() if name != "network.mean"}
    with pytest.raises(RuntimeError, match="mean"):
        restore(first, optimiser, tensors)


def test_prefixes_go_on_and_off():
    tensors = {"a.b": torch.zeros(1), "c": torch.ones(1)}
    both = with_prefix("x", tensors) | with_prefix("xy", tensors)
    assert len(both) == 4
    assert under_prefix("x", both) == tensors
