import copy
import math
from pathlib import Path

import pytest
import torch
from synthetic import TEST, VALIDATION, blobs, tiny_params

from randomz import judge as module
from randomz.batches import Split, pixels
from randomz.checkpoint import load_tensors, save_tensors
from randomz.judge import FEATURES, Judge, accuracy, augment, fit_judge, load_judge, split_features
from randomz.seeding import generator

PINNED = Path(__file__).parents[1] / "judge" / "judge.safetensors"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images():
    return pixels(blobs(60, 3).images)


def noise():
    return generator("test_judge")


def config(**changes):
    return tiny_params(judge=changes).judge


def centres(images):
    """Row and column of the centre of mass of each image."""
    mass, place = images[:, 0] / images.sum((1, 2, 3))[:, None, None], torch.arange(28.0)
    return torch.stack([(mass.sum(2) * place).sum(1), (mass.sum(1) * place).sum(1)], 1)


def test_shapes(tiny_judge, images):
    features = tiny_judge.features(images)
    assert features.shape == (60, FEATURES)
    assert bool((features >= 0).all())
    assert tiny_judge(images).shape == (60, 10)
    torch.testing.assert_close(tiny_judge.classes(features), tiny_judge(images).argmax(1))
    assert not features.requires_grad


@pytest.mark.parametrize("wrong", [math.nan, -0.01, 1.01, math.inf])
def test_pixels_that_are_none_are_refused(tiny_judge, images, wrong):
    broken = images.clone()
    broken[[2, 5], 0, 10, 20] = wrong
    with pytest.raises(ValueError, match=r"^judge: 2 of 60 images hold NaN or pixels outside \[0, 1\]; numbers in"):
        tiny_judge.features(broken)


def test_features_of_an_image_are_the_same_in_any_batch(tiny_judge, images, monkeypatch):
    features = tiny_judge.features(images)
    torch.testing.assert_close(
        torch.cat([tiny_judge.features(x) for x in images.split(7)]), features, rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(tiny_judge.features(images.flip(0)).flip(0), features, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(module, "CHUNK", 11)
    torch.testing.assert_close(tiny_judge.features(images), features, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(split_features(tiny_judge, blobs(60, 3)), features, rtol=1e-4, atol=1e-5)


def test_measuring_leaves_the_judge_as_it_is(tiny_judge, images):
    before = copy.deepcopy(tiny_judge.state_dict())
    tiny_judge.features(images)
    accuracy(tiny_judge, blobs(60, 3))
    assert not tiny_judge.training
    for name, tensor in tiny_judge.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_fitted_judge_tells_classes_apart(tiny_judge):
    assert accuracy(tiny_judge, blobs(*TEST)) > 0.95


def test_accuracy_is_the_share_of_images_that_get_their_own_class(tiny_judge):
    test = blobs(40, 4)
    wrong = Split(test.images, test.labels.roll(1))
    found = [int(tiny_judge.classes(tiny_judge.features(pixels(image[None])))) for image in test.images]
    for split in (test, wrong):
        right = sum(a == b for a, b in zip(found, split.labels.tolist(), strict=True))
        assert accuracy(tiny_judge, split) == pytest.approx(right / 40)


def test_no_shift_and_no_turn_change_nothing(images):
    torch.testing.assert_close(augment(images, config(shift=0.0, rotation=0.0), noise()), images, rtol=0, atol=1e-4)


def test_shifts_are_up_to_a_share_of_the_width_either_way(images):
    moved = centres(augment(images, config(shift=0.1, rotation=0.0), noise())) - centres(images)
    assert float(moved.abs().max()) == pytest.approx(2.8, abs=0.3)
    for axis in moved.T:
        assert float(axis.min()) < -1.5
        assert float(axis.max()) > 1.5


def test_turns_are_up_to_an_angle_either_way(images):
    middle = 13.5
    before, after = (centres(x) - middle for x in (images, augment(images, config(shift=0.0, rotation=30.0), noise())))
    turned = torch.atan2(*after.T) - torch.atan2(*before.T)
    degrees = torch.rad2deg(torch.remainder(turned + math.pi, 2 * math.pi) - math.pi)
    assert float(degrees.abs().max()) == pytest.approx(30, abs=3)
    assert float(degrees.min()) < -15
    assert float(degrees.max()) > 15
    torch.testing.assert_close(after.norm(dim=1), before.norm(dim=1), rtol=0, atol=0.3)


def test_each_image_is_augmented_by_its_own_draw(images):
    one = images[:1].expand(5, -1, -1, -1)
    assert len(augment(one, config(shift=0.1, rotation=20.0), noise()).flatten(1).unique(dim=0)) == 5


def fit(seed=0):
    rows = []
    judge = fit_judge(blobs(60, 3), blobs(*VALIDATION), config(seed=seed), rows.append)
    return judge, rows


def test_a_fit_is_a_function_of_its_seed(tmp_path):
    torch.manual_seed(1)
    first, rows = fit()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second, again = fit()
    assert torch.equal(torch.get_rng_state(), state)
    assert rows == again
    for name, judge in (("first", first), ("second", second)):
        save_tensors(tmp_path / name, judge.state_dict())
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    assert not torch.equal(fit(seed=1)[0].head.weight, first.head.weight)


def test_a_fit_says_a_row_an_epoch():
    judge, rows = fit()
    assert [list(row) for row in rows] == [["epoch", "loss", "validation_accuracy"]] * 2
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[1]["loss"] < rows[0]["loss"]
    assert rows[1]["validation_accuracy"] == accuracy(judge, blobs(*VALIDATION))
    assert not judge.training


def test_the_pinned_judge_loads_and_is_small_enough_for_git(images):
    judge = load_judge(PINNED, CPU)
    assert PINNED.stat().st_size <= 2_000_000
    assert not judge.training
    assert bool(judge.features(images).isfinite().all())


def test_a_saved_judge_measures_the_same(tiny_judge, images, tmp_path):
    save_tensors(tmp_path / "judge", tiny_judge.state_dict())
    assert torch.equal(load_judge(tmp_path / "judge", CPU).features(images), tiny_judge.features(images))


def test_other_weights_are_refused_by_their_file(tmp_path):
    path = tmp_path / "judge.safetensors"
    state = Judge().state_dict()
    state["head.bias"] = torch.zeros(3)
    save_tensors(path, state)
    with pytest.raises(ValueError, match=r"(?s)judge.safetensors: does not hold the weights of the judge: .*head.bias"):
        load_judge(path, CPU)
    assert "head.bias" in load_tensors(path)
    with pytest.raises(FileNotFoundError):
        load_judge(tmp_path / "none", CPU)
