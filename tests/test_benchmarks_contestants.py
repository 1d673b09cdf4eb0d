import json

import pytest
import torch
from synthetic import blobs, tiny_params

from benchmarks import contestants
from benchmarks.contestants import Task, contest_config, main, run
from randomz.batches import Split, pixels
from randomz.checkpoint import save_tensors
from randomz.trainer import Data, fit

CPU = torch.device("cpu")


def tiny_task(name):
    params = tiny_params()
    data = Data(blobs(100, 0), blobs(40, 1))
    return Task(params.network, contest_config(params.model(name)), params.train, data, CPU)


@pytest.mark.parametrize("name", ["ae", "vae", "vqvae"])
def test_the_loss_is_pythaes(name):
    task = tiny_task(name)
    model = task.build(0)
    x = pixels(task.data.train.images[:10])
    found = task.kind.loss(model, model(x, torch.Generator()), x)
    mean = model.likelihood.mean(model(x, torch.Generator().manual_seed(0)).logits)
    constant = 784 * 0.5 * torch.log(torch.tensor(torch.pi))  # the normaliser of N(0, 1/2)
    if name == "vae":
        assert torch.allclose(found.total, found.reconstruction + found.kl)
    else:
        assert torch.allclose(found.reconstruction, (x - mean).square().flatten(1).sum(1) + constant, atol=1e-3)
    if name == "vqvae":
        assert (task.config.restart, task.config.codebook, model.codebook_weight) == (0.0, "ema", 0.0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="autograd, once it has seen a GPU, works in no fork")
def test_ours_is_the_trainer_itself():
    task = tiny_task("vqvae")
    rows = list(fit(task.build(0), task.kind.loss, task.data, task.train, 0))
    with torch.random.fork_rng():
        found = run("ours", task, [0])
    losses = [row["validation_total"] for row in rows]
    assert [epoch["validation"] for epoch in found["epochs"]] == pytest.approx(losses, rel=1e-5)  # on more threads
    assert found["epochs"][-1]["at"] <= found["finished"]
    assert found["processor_seconds"] > 0


def test_the_loop_over_pictures_learns_what_ours_does():
    task = tiny_task("vae")
    with torch.random.fork_rng():
        found = run("examples", task, [0, 1])
    rows = list(fit(task.build(0), task.kind.loss, task.data, task.train, 0))
    assert [(epoch["seed"], epoch["epoch"]) for epoch in found["epochs"]] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    before = task.validation_loss(task.build(0), 0)
    last = found["epochs"][1]["validation"]
    assert last < before
    assert last == pytest.approx(rows[-1]["validation_total"], rel=0.05)


def test_pictures_are_the_pixels():
    split = blobs(5, 3)
    pictures = contestants.DigitPictures(split.images, split.labels)
    assert len(pictures) == 5
    image, label = pictures[2]
    assert torch.equal(image, pixels(split.images[2]))
    assert label == int(split.labels[2])


def test_missing_peers_are_named_with_the_group_that_has_them(monkeypatch):
    for name in ("pythae", "pythae.data.datasets"):
        monkeypatch.setitem(contestants.sys.modules, name, None)
    monkeypatch.delitem(contestants.sys.modules, "benchmarks.peers", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"pythae.* is not installed; `uv sync --group peers`"):
        contestants.peers()


def test_a_part_of_the_data_keeps_the_share_of_validation(tmp_path, monkeypatch):
    for name, count in (("train", 100), ("validation", 20)):
        split = blobs(count, count)
        save_tensors(tmp_path / f"data/{name}.safetensors", {"images": split.images, "labels": split.labels})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANDOMZ_DEVICE", "cpu")
    monkeypatch.setattr(contestants, "load_params", tiny_params)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    with torch.random.fork_rng():
        assert main(["examples", "ae", "r.json", "--epochs", "3", "--images", "50", "--seeds", "0"]) == 0
    tree = json.loads((tmp_path / "r.json").read_text())
    assert tree["images"] == 50
    assert len(tree["epochs"]) == 3
    task = contestants.make_task(tiny_params(), "ae", 3, 50, CPU)
    assert isinstance(task.data.validation, Split)
    assert len(task.data.validation) == 10
