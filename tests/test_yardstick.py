import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from synthetic import TEST, TRAIN, VALIDATION, blobs, tiny_params

from randomz import judge as judge_module
from randomz.batches import pixels
from randomz.checkpoint import save_tensors
from randomz.judge import FEATURES
from randomz.yardstick import (
    CHANNELS,
    blur,
    build_yardstick,
    control_pictures,
    controls,
    load_yardstick,
    measure_controls,
    measure_floor,
    responses,
    split_responses,
)

CONFIG = tiny_params().yardstick
CPU = torch.device("cpu")
FIGURES = [
    "fd", "fd_infinite", "kid", "precision", "recall", "density", "coverage",
    "digit_rate", "class_entropy", "authenticity",
]  # fmt: skip
CONTROLS = ["noise", "shuffled", "blurred", "one_class", "copied"]


@pytest.fixture(scope="module")
def train():
    return blobs(*TRAIN)


@pytest.fixture(scope="module")
def sets(train):
    return controls(train, CONFIG)


@pytest.fixture(scope="module")
def floor(tiny_yardstick, tiny_judge, train):
    return measure_floor(tiny_yardstick, tiny_judge, train, blobs(*VALIDATION), CONFIG)


@pytest.fixture(scope="module")
def measured(tiny_yardstick, tiny_judge, train):
    return measure_controls(tiny_yardstick, tiny_judge, train, CONFIG)


def rows(images):
    """Images as a set of bytes."""
    return {image.numpy().tobytes() for image in images}


def test_every_control_has_the_size_and_the_type(sets):
    assert list(sets) == CONTROLS
    for images in sets.values():
        assert images.shape == (500, 28, 28)
        assert images.dtype == torch.uint8


def test_noise_takes_every_grey_level_alike_everywhere(sets):
    shares = sets["noise"].flatten().bincount(minlength=256) / sets["noise"].numel()
    assert float((shares - 1 / 256).abs().max()) < 5 * math.sqrt(1 / 256 / sets["noise"].numel())
    assert len(rows(sets["noise"])) == 500


def test_shuffling_keeps_the_grey_levels_of_each_image_and_not_their_places(train, sets):
    pictures = control_pictures(train, CONFIG)
    real, shuffled = pictures["real"].flatten(1), sets["shuffled"].flatten(1)[:100]
    assert torch.equal(real.sort(1).values, shuffled.sort(1).values)
    correlations = [
        float(torch.corrcoef(torch.stack(pair).double())[0, 1]) for pair in zip(real, shuffled, strict=True)
    ]
    assert abs(float(np.mean(correlations))) < 0.05
    orders = {tuple(image.argsort().tolist()) for image in shuffled}
    assert len(orders) == 100


def test_blurred_images_are_scipys(train, sets):
    real = pixels(control_pictures(train, CONFIG)["real"])
    reference = gaussian_filter(real[:, 0].numpy(), sigma=(0, 2, 2), mode="constant", truncate=3)
    np.testing.assert_allclose(blur(real)[:, 0], reference, atol=1e-6)
    np.testing.assert_allclose(sets["blurred"][:100] / 255, reference, atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_a_blur_of_any_width_is_scipys(train, sigma):
    real = pixels(train.images[:50])
    reference = gaussian_filter(real[:, 0].numpy(), sigma=(0, sigma, sigma), mode="constant", truncate=3)
    np.testing.assert_allclose(blur(real, sigma)[:, 0], reference, atol=1e-6)


def test_a_blur_keeps_the_mean_of_an_image_without_ink_at_its_border():
    image = torch.zeros(1, 1, 28, 28)
    image[0, 0, 14, 14] = 1
    blurred = blur(image)
    assert float(blurred.sum()) == pytest.approx(1, abs=1e-5)
    row = blurred[0, 0].sum(1)
    variance = (row * (torch.arange(28.0) - 14).square()).sum()
    assert float(variance.sqrt()) == pytest.approx(2, abs=0.1)


def test_one_class_is_the_ones_again_and_again(train, sets):
    ones = train.images[train.labels == 1]
    assert torch.equal(sets["one_class"], torch.cat([ones] * 5))


def test_copies_are_different_training_images(train, sets):
    assert rows(sets["copied"]) <= rows(train.images)
    assert len(rows(sets["copied"])) == len(rows(train.images[:500])) == 500


def test_controls_are_the_same_each_time_and_differ_by_seed(train, sets):
    again = controls(train, CONFIG)
    other = controls(train, tiny_params(yardstick={"seed": 1}).yardstick)
    for name, images in sets.items():
        assert torch.equal(images, again[name])
        assert torch.equal(images, other[name]) == (name == "one_class")


def test_pictures_are_the_first_hundred(train, sets):
    pictures = control_pictures(train, CONFIG)
    assert list(pictures) == ["real", *CONTROLS]
    for name in CONTROLS:
        assert torch.equal(pictures[name], sets[name][:100])
    assert rows(pictures["real"]) <= rows(train.images)


def test_responses_are_features_and_the_means_and_deviations_of_all_channels(tiny_judge, train):
    images = pixels(train.images[:60])
    found = responses(tiny_judge, images)
    assert found.shape == (60, FEATURES + 2 * CHANNELS)
    assert torch.equal(found[:, :FEATURES], tiny_judge.features(images))
    with torch.no_grad():
        maps = [tiny_judge.stack[:layer](images).double().numpy() for layer in (3, 6, 9)]
    expected = np.concatenate([each for map_ in maps for each in (map_.mean((2, 3)), map_.std((2, 3)))], 1)
    np.testing.assert_allclose(found[:, FEATURES:], expected, rtol=1e-4, atol=1e-5)


def test_responses_leave_the_judge_as_it_was(tiny_judge, train):
    responses(tiny_judge, pixels(train.images[:10]))
    with pytest.raises(ValueError, match="hold NaN"):
        responses(tiny_judge, torch.full((2, 1, 28, 28), math.nan))
    assert not any(layer._forward_hooks for layer in tiny_judge.stack)  # noqa: SLF001


def test_responses_do_not_depend_on_the_size_of_a_chunk(tiny_judge, train, monkeypatch):
    expected = split_responses(tiny_judge, train)
    monkeypatch.setattr(judge_module, "CHUNK", 37)
    torch.testing.assert_close(split_responses(tiny_judge, train), expected, rtol=1e-4, atol=1e-5)


def test_haze_around_a_digit_is_refused(tiny_yardstick, tiny_judge):
    real = pixels(blobs(*TEST).images)
    stream = torch.Generator().manual_seed(0)
    hazy = torch.maximum(real, 0.3 * torch.rand(real.shape, generator=stream))
    assert tiny_yardstick.quality(tiny_judge, real)["digit_rate"] > 0.9
    assert tiny_yardstick.quality(tiny_judge, hazy)["digit_rate"] < 0.05


def test_every_figure_is_there_and_finite(floor, measured):
    for quality in (floor, *measured.values()):
        assert list(quality) == FIGURES
        assert all(math.isfinite(value) for value in quality.values())


def test_ruined_images_are_far_from_real_ones_and_no_digits(floor, measured):
    for name in ("noise", "shuffled"):
        assert measured[name]["fd"] > 20 * floor["fd"]
        assert measured[name]["kid"] > 20 * abs(floor["kid"])
        assert measured[name]["digit_rate"] < 0.05
        assert measured[name]["precision"] < 0.1
        assert measured[name]["coverage"] < 0.1
        assert measured[name]["authenticity"] == 1


def test_a_blur_is_seen_by_distance_and_precision(floor, measured):
    assert measured["blurred"]["fd"] > 3 * floor["fd"]
    assert measured["blurred"]["kid"] > 3 * abs(floor["kid"])
    assert measured["blurred"]["precision"] < floor["precision"]
    assert measured["blurred"]["digit_rate"] < floor["digit_rate"]


def test_one_class_is_precise_and_recalls_little(floor, measured):
    one = measured["one_class"]
    assert one["digit_rate"] > 0.8
    assert one["precision"] > 0.8
    assert one["recall"] < 0.25
    assert one["coverage"] < 0.25
    assert one["class_entropy"] < 0.3 < floor["class_entropy"]
    assert one["fd"] > 20 * floor["fd"]


def test_copies_pass_everything_but_authenticity(floor, measured):
    copied = measured["copied"]
    assert copied["authenticity"] == 0
    assert floor["authenticity"] > 0.3
    assert copied["fd"] < 3 * floor["fd"]
    assert copied["class_entropy"] == pytest.approx(math.log2(10), abs=0.1)


def test_the_floor_is_what_real_images_get(floor):
    assert floor["digit_rate"] == pytest.approx(CONFIG.accept, abs=0.01)
    assert floor["precision"] > 0.8
    assert floor["recall"] > 0.8
    assert floor["class_entropy"] == pytest.approx(math.log2(10), abs=0.1)


def test_a_set_of_training_images_takes_two_figures_from_unseen_ones(tiny_yardstick, tiny_judge):
    copies, unseen = (responses(tiny_judge, pixels(blobs(*split).images[:500])) for split in (TRAIN, VALIDATION))
    of_copies, of_unseen = (
        tiny_yardstick.quality_of_features(tiny_judge, seen[:, :FEATURES], seen) for seen in (copies, unseen)
    )
    mixed = tiny_yardstick.quality_of_features(tiny_judge, copies[:, :FEATURES], unseen)
    shared = {name: of_unseen[name] for name in ("digit_rate", "authenticity")}
    assert mixed == of_copies | shared
    assert of_copies["authenticity"] == 0 < mixed["authenticity"]


def test_the_distance_of_the_test_images_to_themselves_is_nothing(tiny_yardstick, tiny_judge):
    quality = tiny_yardstick.quality(tiny_judge, pixels(blobs(*TEST).images))
    assert quality["fd"] == pytest.approx(0, abs=1e-6)
    assert quality["precision"] == quality["recall"] == quality["coverage"] == 1


def test_the_distance_of_infinitely_many_is_seeded_and_smaller(floor, tiny_yardstick, tiny_judge, sets):
    images = pixels(sets["copied"])
    first, again = (tiny_yardstick.quality(tiny_judge, images)["fd_infinite"] for _ in range(2))
    assert first == again < tiny_yardstick.quality(tiny_judge, images)["fd"]
    assert floor["fd_infinite"] < floor["fd"]


def test_two_figures_alone_are_those_of_the_whole(tiny_yardstick, tiny_judge, sets):
    images = pixels(sets["blurred"])
    quality = tiny_yardstick.quality(tiny_judge, images)
    found = tiny_yardstick.distance_and_digit_rate(tiny_judge, images)
    assert found == (quality["fd"], quality["digit_rate"])


@pytest.mark.parametrize("count", [100, 200])
def test_fewer_images_than_feature_dimensions_need_are_refused(tiny_yardstick, tiny_judge, sets, count):
    with pytest.raises(ValueError, match=f"few.* {count} samples, where 128 .*need at least"):
        tiny_yardstick.quality(tiny_judge, pixels(sets["copied"][:count]))


def test_images_that_are_all_the_same_are_measured(tiny_yardstick, tiny_judge, sets):
    quality = tiny_yardstick.quality(tiny_judge, pixels(sets["copied"][:1].repeat(300, 1, 1)))
    assert all(math.isfinite(value) for value in quality.values())
    assert quality["fd"] > 10
    assert quality["recall"] == quality["class_entropy"] == 0
    assert quality["coverage"] < 0.05


def test_a_saved_yardstick_measures_the_same(tiny_yardstick, tiny_judge, sets, tmp_path):
    tiny_yardstick.save(tmp_path / "yardstick")
    loaded = load_yardstick(tmp_path / "yardstick", CPU)
    images = pixels(sets["blurred"])
    assert loaded.quality(tiny_judge, images) == tiny_yardstick.quality(tiny_judge, images)
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "yardstick").read_bytes()


def test_a_file_of_something_else_is_refused(tmp_path):
    save_tensors(tmp_path / "other", {"test": torch.zeros(3)})
    with pytest.raises(ValueError, match="class manifolds need the tensors"):
        load_yardstick(tmp_path / "other", CPU)


def test_wrong_pixels_are_refused(tiny_yardstick, tiny_judge):
    with pytest.raises(ValueError, match="500 of 500 images hold NaN or pixels outside"):
        tiny_yardstick.quality(tiny_judge, torch.full((500, 1, 28, 28), math.nan))


def test_figures_do_not_depend_on_the_size_of_a_chunk(tiny_yardstick, tiny_judge, train, sets, monkeypatch):
    images = pixels(sets["blurred"])
    expected = tiny_yardstick.quality(tiny_judge, images)
    monkeypatch.setattr(judge_module, "CHUNK", 37)
    again = build_yardstick(tiny_judge, train, blobs(*VALIDATION), blobs(*TEST), CONFIG)
    torch.testing.assert_close(again.reference, tiny_yardstick.reference, rtol=1e-4, atol=1e-5)
    assert again.quality(tiny_judge, images) == pytest.approx(expected, rel=1e-3, abs=5e-3)
