"""Pictures by epoch: of which epochs, of what, and that taking them changes nothing."""

import pytest
import torch
from synthetic import blobs, tiny_params

from randomz.batches import pixels
from randomz.models import load_kind
from randomz.snapshots import RECONSTRUCTED, SAMPLED, Snapshots, is_pictured, snapshot
from randomz.trainer import Data, build_seeded, fit

IMAGES = blobs(60, 0).images


def build(kind, seed=0, **changes):
    params = tiny_params(**changes)
    return params, build_seeded(lambda: load_kind(kind).build(params.models[kind], params.network), seed)


@pytest.mark.parametrize(
    ("last", "epochs"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (20, [1, 2, 4, 8, 16, 20]), (16, [1, 2, 4, 8, 16])]
)
def test_powers_of_two_and_the_last_epoch_are_pictured(last, epochs):
    assert [epoch for epoch in range(1, last + 1) if is_pictured(epoch, last)] == epochs


@pytest.mark.parametrize("kind", ["ae", "vae", "vqvae"])
def test_reconstructions_are_those_of_the_model_and_samples_of_the_same_random_z_each_time(kind):
    _, model = build(kind)
    taken = snapshot(model, IMAGES)
    with torch.no_grad():
        decoded = model.decode(model.encode(pixels(IMAGES[:RECONSTRUCTED])))[:, 0]
    assert (taken["reconstructions"] - decoded * 255).abs().max() <= 0.501
    assert taken["samples"].shape == (SAMPLED, 28, 28)
    assert taken["samples"].dtype == torch.uint8
    assert torch.equal(snapshot(model, IMAGES.flip(0))["samples"], taken["samples"])
    assert len(taken["samples"].unique(dim=0)) > SAMPLED // 4
    assert not torch.equal(snapshot(build(kind, seed=1)[1], IMAGES)["samples"], taken["samples"])


@pytest.mark.parametrize("kind", ["ae", "vqvae"])
def test_random_z_is_what_the_kind_means_by_it(kind):
    params, model = build(kind)
    codes = model.encode(pixels(IMAGES))
    drawn = model.random_like(codes[:1].expand(2000, *codes.shape[1:]), torch.Generator().manual_seed(0))
    assert drawn.dtype == codes.dtype
    if kind == "ae":
        assert drawn.mean().abs() < 0.05
        assert (drawn.std() - 1).abs() < 0.05
    else:
        share = drawn.flatten().bincount(minlength=params.models[kind].codes) / drawn.numel()
        assert (share * params.models[kind].codes - 1).abs().max() < 0.1


def trained(folder, *, pictured):
    params, model = build("vqvae", train={"epochs": 3})
    data = Data(train=blobs(50, 0), validation=blobs(30, 1))
    snapshots = Snapshots(folder, 3)
    for row in fit(model, load_kind("vqvae").loss, data, params.train, 0):
        if pictured:
            snapshots.take(model, IMAGES, int(row["epoch"]))
    return snapshots, model.state_dict()


def test_training_is_the_same_with_pictures_and_without(tmp_path):
    snapshots, with_pictures = trained(tmp_path / "pictures", pictured=True)
    _, without = trained(tmp_path / "none", pictured=False)
    assert not (tmp_path / "none").exists()
    assert all(torch.equal(with_pictures[name], tensor) for name, tensor in without.items())
    found = snapshots.collect(IMAGES)
    assert found["epochs"].tolist() == [1, 2, 3]
    assert torch.equal(found["originals"], IMAGES[:RECONSTRUCTED])
    assert found["reconstructions"].shape == (3, RECONSTRUCTED, 28, 28)
    assert found["samples"].shape == (3, SAMPLED, 28, 28)
    assert not torch.equal(found["samples"][0], found["samples"][2])


def test_what_was_taken_before_a_stop_stays(tmp_path):
    """The rows of earlier epochs come again when a fit goes on, with the model of a later one."""
    _, early = build("vae", seed=0)
    _, late = build("vae", seed=1)
    snapshots = Snapshots(tmp_path, 2)
    snapshots.take(early, IMAGES, 1)
    for epoch in (1, 2):
        snapshots.take(late, IMAGES, epoch)
    found = snapshots.collect(IMAGES)["samples"]
    assert torch.equal(found[0], snapshot(early, IMAGES)["samples"])
    assert torch.equal(found[1], snapshot(late, IMAGES)["samples"])


def test_an_epoch_without_its_file_is_an_error(tmp_path):
    snapshots = Snapshots(tmp_path, 2)
    snapshots.take(build("vae")[1], IMAGES, 1)
    with pytest.raises(FileNotFoundError, match="000002"):
        snapshots.collect(IMAGES)
