import dataclasses
import json
import math
from itertools import pairwise

import pytest
import torch
from synthetic import TRAIN, VALIDATION, blobs, tiny_params

from randomz.batches import pixels
from randomz.judge import FEATURES
from randomz.sensitivity import caught
from randomz.study import BLUR, COPIED, DROPPED, NOISE, SHUFFLE, Study, blurred, noisy, shuffled
from randomz.yardstick import Yardstick, blur

CONFIG = tiny_params().study
FAMILIES = {"noise": NOISE, "blur": BLUR, "shuffle": SHUFFLE, "dropped_classes": DROPPED, "copied": COPIED}


@pytest.fixture(scope="module")
def images():
    return blobs(200, 3).images


@pytest.fixture(scope="module")
def study(tiny_yardstick, tiny_judge):
    return Study(tiny_yardstick, tiny_judge, blobs(*TRAIN), blobs(*VALIDATION), CONFIG)


@pytest.fixture(scope="module")
def tree(study):
    return study.measure()


class Recorder(Yardstick):
    """A yardstick that keeps the sets that it is given, and says of them only the mean of their features."""

    def quality_of_features(self, judge, features, unseen):  # noqa: ARG002
        self.__dict__.setdefault("sets", []).append((features, unseen))
        return {"features": float(features.mean()), "unseen": float(unseen.mean())}


def recorded(study, seed=0, run=0, made={}):  # noqa: B006 (every recording is made once)
    """A study by a recorder: its tree, and the sets of real images and of each family."""
    key = (id(study), seed, run)
    if key not in made:
        made[key] = record(study, seed)
    return made[key]


def record(study, seed):
    fields = {field.name: getattr(study.yardstick, field.name) for field in dataclasses.fields(Yardstick)}
    recorder = Recorder(**fields)
    tree = dataclasses.replace(study, yardstick=recorder, config=tiny_params(study={"seed": seed}).study).measure()
    sets = iter(recorder.sets)
    counts = {"real": 2} | {family: len(strengths) for family, strengths in FAMILIES.items()}
    named = {name: [next(sets) for _ in range(count)] for name, count in counts.items()}
    assert next(sets, None) is None
    return tree, named


def rows(features):
    """Feature vectors as a set of bytes."""
    return {row.numpy().tobytes() for row in features}


def curve(tree, family, metric):
    return [step[metric] for step in tree["families"][family]]


@pytest.mark.parametrize("ruin", [noisy, shuffled])
def test_nothing_is_done_at_strength_zero(images, ruin):
    assert torch.equal(ruin(images, 0.0, 0), images)


@pytest.mark.parametrize("ruin", [noisy, shuffled])
def test_draws_are_the_seeds(images, ruin):
    assert torch.equal(ruin(images, 0.5, 0), ruin(images, 0.5, 0))
    assert not torch.equal(ruin(images, 0.5, 0), ruin(images, 0.5, 1))


@pytest.mark.parametrize("share", NOISE)
def test_noise_replaces_its_share_of_the_pixels(images, share):
    changed = (noisy(images, share, 0) != images).double()
    expected = share * 255 / 256  # one level in 256 is the one that was there
    assert float(changed.mean()) == pytest.approx(expected, abs=5 * math.sqrt(expected / changed.numel()))


def test_stronger_noise_keeps_what_weaker_noise_put(images):
    weak, strong = noisy(images, 0.1, 0), noisy(images, 0.5, 0)
    assert torch.equal(strong[weak != images], weak[weak != images])


def test_noise_of_all_pixels_takes_every_grey_level_alike(images):
    noise = noisy(images, 1.0, 0)
    shares = noise.flatten().bincount(minlength=256) / noise.numel()
    assert float((shares - 1 / 256).abs().max()) < 5 * math.sqrt(1 / 256 / noise.numel())


@pytest.mark.parametrize("share", SHUFFLE)
def test_a_shuffle_moves_its_share_of_the_pixels_and_keeps_grey_levels(share):
    levels = torch.arange(784).view(1, 28, 28).expand(100, 28, 28)  # all different, so that every move is seen
    high, low = (shuffled(byte.to(torch.uint8), share, 0).long() for byte in (levels // 256, levels % 256))
    moved = 256 * high + low
    assert torch.equal(moved.flatten(1).sort(1).values, levels.flatten(1))
    assert torch.all((moved != levels).flatten(1).sum(1) == round(share * 784))
    assert len({tuple(image.flatten().tolist()) for image in moved}) == 100


def test_a_blur_is_the_yardsticks_in_grey_levels(images):
    torch.testing.assert_close(
        pixels(blurred(images, 1.5, 0)), blur(pixels(images), 1.5), atol=0.5 / 255 + 1e-6, rtol=0
    )


def test_every_figure_of_every_set_is_there(tree, study):
    figures = study.yardstick.quality(study.judge, pixels(study.held_out.images))
    assert list(tree) == ["samples", "real", "families"]
    assert tree["samples"] == 500
    assert list(tree["real"]) == list(figures)
    assert {family: tuple(curve(tree, family, "strength")) for family in tree["families"]} == FAMILIES
    for steps in tree["families"].values():
        assert all(list(step) == ["strength", *figures] for step in steps)
    json.dumps(tree, allow_nan=False)


def test_strengths_rise():
    for strengths in FAMILIES.values():
        assert all(weak < strong for weak, strong in pairwise(strengths))


def test_real_images_get_what_the_floor_gets(tree):
    real = tree["real"]
    assert all(entry["draws"] == 2 for entry in real.values())
    assert real["digit_rate"]["mean"] == pytest.approx(0.95, abs=0.03)
    assert real["authenticity"]["mean"] > 0.3
    assert real["class_entropy"]["mean"] == pytest.approx(math.log2(10), abs=0.1)


def test_mean_and_deviation_are_those_of_the_sets(study):
    tree, sets = recorded(study)
    means = [float(features.mean()) for features, _ in sets["real"]]
    assert tree["real"]["features"]["mean"] == pytest.approx(sum(means) / 2)
    assert tree["real"]["features"]["deviation"] == pytest.approx(abs(means[0] - means[1]) / math.sqrt(2))


def test_real_sets_are_disjoint_training_images_and_drawn_unseen_ones(study):
    _, sets = recorded(study)
    (first, unseen), (second, others) = sets["real"]
    assert rows(first) | rows(second) == rows(study.yardstick.training)
    assert len(first) == len(second) == len(unseen) == 500
    assert rows(unseen) | rows(others) <= rows(study.unseen)
    assert rows(unseen) != rows(others)


def test_dropped_classes_are_gone_and_the_size_stays(study):
    _, sets = recorded(study)
    for (features, unseen), dropped in zip(sets["dropped_classes"], DROPPED, strict=True):
        kept = study.yardstick.training[study.train.labels < 10 - dropped]
        assert len(features) == 500
        assert rows(features) <= rows(kept)
        assert len(rows(features)) == min(500, len(kept))
        assert len(unseen) == int((study.held_out.labels < 10 - dropped).sum())


def test_copies_are_their_share_of_the_set(study):
    _, sets = recorded(study)
    for (features, unseen), share in zip(sets["copied"], COPIED, strict=True):
        assert torch.equal(features, unseen[:, :FEATURES])
        copied = torch.cdist(features, study.yardstick.training).amin(1) < 1e-2
        assert int(copied.sum()) == round(share * 500)
    assert rows(sets["copied"][0][1]) == rows(study.unseen)  # 300, again from the start


@pytest.mark.parametrize("family", ["noise", "blur", "shuffle"])
def test_ruined_images_are_farther_and_farther_from_digits(tree, family):
    assert curve(tree, family, "fd")[-1] > 20 * tree["real"]["fd"]["mean"]
    assert curve(tree, family, "fd")[-1] > 3 * curve(tree, family, "fd")[0]
    assert curve(tree, family, "digit_rate")[-1] < 0.05
    assert curve(tree, family, "authenticity")[-1] > 0.9
    for metric in ("precision", "recall", "density", "coverage"):
        assert curve(tree, family, metric)[-1] < 0.6 * tree["real"][metric]["mean"]


@pytest.mark.parametrize("family", ["noise", "blur", "shuffle"])
def test_the_weakest_failures_still_resemble_digits(tree, family):
    assert curve(tree, family, "coverage")[0] > curve(tree, family, "coverage")[-1]


def test_dropped_classes_lower_what_measures_diversity_step_by_step(tree):
    for metric in ("recall", "coverage", "class_entropy"):
        values = curve(tree, "dropped_classes", metric)
        assert all(before > after for before, after in pairwise(values))
    assert curve(tree, "dropped_classes", "class_entropy")[-1] < 0.3
    assert min(curve(tree, "dropped_classes", "precision")) > 0.8
    assert min(curve(tree, "dropped_classes", "authenticity")) > 0.3


def test_copies_are_seen_by_authenticity_alone(tree):
    values = curve(tree, "copied", "authenticity")
    assert all(before > after for before, after in pairwise(values))
    assert values[-1] == 0
    assert values[0] == pytest.approx(tree["real"]["authenticity"]["mean"], abs=0.1)
    assert curve(tree, "copied", "fd")[-1] < 2 * tree["real"]["fd"]["mean"]
    assert min(curve(tree, "copied", "digit_rate")) > 0.9


def test_every_family_is_caught_by_a_metric(tree):
    smallest = caught(tree)
    for family in FAMILIES:
        assert any(smallest[metric][family] is not None for metric in tree["real"])


def test_a_study_is_a_function_of_its_seed(study):
    (tree, _), (again, _), (other, _) = (recorded(study, seed, run) for seed, run in ((0, 0), (0, 1), (1, 0)))
    assert again == tree
    assert other["real"] != tree["real"]
    for family, steps in tree["families"].items():
        assert steps != other["families"][family]


def test_too_few_images_for_two_sets_are_refused(study):
    with pytest.raises(
        ValueError, match=r"study.samples is 600, but .* of 1000 training images; up to 500 is accepted"
    ):
        dataclasses.replace(study, config=tiny_params(study={"samples": 600}).study).measure()
