import io
import json
import math

import numpy as np
import pytest
import torch
from fabricated import make_params, strokes, write_results
from PIL import Image

from randomz.claims import Estimate
from randomz.figures import (
    GAP,
    RULE,
    SCALE,
    Study,
    bands,
    best_fitted,
    bounds,
    codebook,
    draw_figures,
    grid,
    grid_side,
    interval,
    kl,
    number,
    percent,
    rate_distortion,
    rates,
    reconstructions,
    sampling,
    sensitivity,
    smoothness,
    to_png,
)
from randomz.figures.style import INK
from randomz.report import read_study
from randomz.sensitivity import caught

COMMON = {
    "random_z", "reconstructions", "interpolations", "training", "sampling", "controls", "study", "rate_distortion",
    "smoothness",
}  # fmt: skip


def make_study(folder, *args):
    params = make_params(*args)
    write_results(folder, params)
    return read_study(params, folder / "reports", folder / "artifacts")


def named_only(*names):
    "A study of which only the names and kinds of the models are known."
    return Study({"models": {name: {"kind": name.partition("-")[0]} for name in names}}, {}, {}, {}, {})


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("four"), ("ae", "vae", "vqvae", "vae-beta4"))


@pytest.fixture(scope="module")
def pngs(study):
    return draw_figures(study)


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("L"))


def places(page, part):
    "Where a part of a page stands, as (top, left)."
    inner = 13 * SCALE  # a line across the first row of digits
    strip, found = part[inner].tobytes(), []
    for y, row in enumerate(page):
        left = row.tobytes().find(strip)
        top = y - inner
        if left >= 0 and np.array_equal(page[top : top + part.shape[0], left : left + part.shape[1]], part):
            found.append((top, left))
    return found


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1460.4, "1460"), (12345.6, "12300"), (98.34, "98.3"), (9.996, "10.0"), (0.999949, "1.00"), (0.95, "0.950"),
        (0.0073149, "0.00731"), (1.5e-4, "0.000150"), (1.234e-7, "1.23e\N{MINUS SIGN}07"), (0.0, "0"), (-0.0, "0"),
        (-98.34, "\N{MINUS SIGN}98.3"), (500.0, "500"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


def test_intervals_and_shares_are_spelled_out():
    assert interval(Estimate(12.3, 11.94, 12.66, ())) == "12.3 (11.9\N{EN DASH}12.7)"
    assert interval(Estimate(-99.6, -100.2, -99.0, ())) == (
        "\N{MINUS SIGN}99.6 (\N{MINUS SIGN}100 to \N{MINUS SIGN}99.0)"
    )
    assert interval(Estimate(12.3, None, None, ())) == "12.3"
    assert interval(Estimate(500.0, 500.0, 500.0, ())) == "500"
    assert percent(Estimate(0.1234, 0.1, 0.15, ())) == "12.3 % (10.0\N{EN DASH}15.0 %)"
    assert percent(Estimate(0.98, 0.95, 1.01, ())) == "98.0 % (95.0\N{EN DASH}100.0 %)"
    assert percent(Estimate(0.5, None, None, ())) == "50.0 %"


def test_image_i_stands_in_row_i_over_columns_as_ink_on_white():
    images = torch.arange(12, dtype=torch.uint8)[:, None, None].expand(12, 28, 28).clone()
    images[7, 3, 20] = 250
    page = grid(images, 5)
    step = 28 * SCALE + GAP
    assert page.shape == (3 * step + GAP, 5 * step + GAP) == (grid_side(3), grid_side(5))
    for i in range(12):
        top, left = GAP + (i // 5) * step, GAP + (i % 5) * step
        cell = page[top : top + 28 * SCALE, left : left + 28 * SCALE]
        expected = (255 - images[i]).numpy().repeat(SCALE, 0).repeat(SCALE, 1)
        assert np.array_equal(cell, expected)
    inside = np.zeros(step, dtype=bool)
    inside[GAP:] = True
    rows, columns = np.append(np.tile(inside, 3), [False] * GAP), np.append(np.tile(inside, 5), [False] * GAP)
    assert (page[~(rows[:, None] & columns)] == RULE).all()


def test_bands_keep_the_order_and_are_even():
    for count, sizes in {1: [1], 3: [3], 4: [2, 2], 5: [3, 2], 7: [3, 3, 1], 8: [3, 3, 2]}.items():
        names = [str(i) for i in range(count)]
        assert [len(band) for band in bands(names, 3)] == sizes
        assert [name for band in bands(names, 3) for name in band] == names


def test_each_figure_is_there_and_of_plausible_size(study, pngs):
    assert set(pngs) == COMMON | {"codebook", "kl", "bounds"} | {f"samplers_{name}" for name in study.models}
    assert sum(map(len, pngs.values())) < 3_000_000
    for png in pngs.values():
        image = Image.open(io.BytesIO(png))
        image.load()
        assert image.format == "PNG"
        assert 700 <= image.width <= 1700
        assert 200 <= image.height <= 3000
        assert set(image.info) == {"dpi"}
        assert pixels(png).std() > 5


def test_a_figure_without_a_model_of_its_kind_is_left_out():
    study = named_only("ae", "ae-wide")
    assert codebook(study) is kl(study) is bounds(study) is None


def test_the_picture_shows_random_z_above_fitted_density_and_models_side_by_side(study, pngs):
    page = pixels(pngs["random_z"])
    drawn = {}
    for name, samplers in {
        "ae": ("standard_normal", "flow"),
        "vae": ("standard_normal", "gmm"),
        "vqvae": ("uniform", "autoregressive"),
        "vae-beta4": ("standard_normal", "gmm"),
    }.items():
        for row, sampler in enumerate(samplers):
            found = places(page, grid(study.pictures[name][0][f"samples.{sampler}"][:64], 8))
            assert len(found) == 1, (name, sampler)
            drawn[name, row] = found[0]
    assert drawn["ae", 0][0] == drawn["vae", 0][0] < drawn["ae", 1][0] == drawn["vae", 1][0] < drawn["vqvae", 0][0]
    assert drawn["vqvae", 0][0] == drawn["vae-beta4", 0][0] < drawn["vae-beta4", 1][0]
    assert drawn["ae", 0][1] == drawn["ae", 1][1] < drawn["vae", 0][1] == drawn["vae-beta4", 0][1]


def test_samplers_controls_reconstructions_and_interpolations_show_their_images(study, pngs):
    pictures = study.pictures["vqvae"][0]
    lefts = [
        places(pixels(pngs["samplers_vqvae"]), grid(pictures[f"samples.{sampler}"][:36], 6))[0][1]
        for sampler in study.models["vqvae"]["sampling"]
    ]
    assert lefts == sorted(lefts)
    assert len(lefts) == 4
    five = [
        places(pixels(pngs["samplers_ae"]), grid(study.pictures["ae"][0][f"samples.{sampler}"][:36], 6))[0]
        for sampler in study.models["ae"]["sampling"]
    ]
    assert len({top for top, _ in five}) == 2
    assert five == sorted(five)
    controls = pixels(pngs["controls"])
    assert all(places(controls, grid(images[:16], 4)) for images in study.controls.values())
    rows = [pictures["originals"], *(study.pictures[name][0]["reconstructions"] for name in study.models)]
    tops = [places(pixels(pngs["reconstructions"]), grid(images, 20)[GAP:-GAP])[0][0] for images in rows]
    assert tops == sorted(tops)
    page = pixels(pngs["interpolations"])
    assert all(places(page, grid(row, 11)[GAP:-GAP]) for row in pictures["interpolation"])


def test_every_model_has_a_colour_and_a_marker_of_its_own():
    study = named_only("ae", "vae", "vqvae", *(f"vae-{letter}" for letter in "abcde"))
    marks = [study.mark(name) for name in study.models]
    assert len({mark.colour for mark in marks}) == len({mark.marker for mark in marks}) == 8
    assert named_only("ae", "vae").mark("vae") == study.mark("vae")


def test_the_colour_of_a_model_is_seen_in_its_figures(study, pngs):
    for name in study.models:
        red, green, blue = (int(study.colour(name)[i : i + 2], 16) for i in (1, 3, 5))
        for figure in ("training", "sampling", f"samplers_{name}", "random_z", "rate_distortion", "smoothness"):
            image = np.asarray(Image.open(io.BytesIO(pngs[figure])).convert("RGB"))
            assert (image == (red, green, blue)).all(-1).any(), (name, figure)


def test_an_interval_that_reaches_below_zero_is_drawn_on_the_log_axis(study):
    tree = json.loads(json.dumps(study.metrics))
    tree["models"]["ae"]["sampling"]["gmm"]["fd_ratio"] |= {"low": -3.0, "high": 9.8}
    assert to_png(sampling(Study(tree, {}, {}, {}, {})))


def test_models_that_were_shown_different_images_are_refused(study):
    pictures = {name: [dict(of_seed) for of_seed in seeds] for name, seeds in study.pictures.items()}
    pictures["vqvae"][0]["originals"] = strokes(20, 99)
    other = Study(study.metrics, study.histories, pictures, study.controls, study.sizes)
    with pytest.raises(ValueError, match="vqvae: originals differ from those of ae"):
        reconstructions(other)


def test_the_best_fitted_sampler_is_neither_the_random_one_nor_the_oracle(study):
    assert {name: best_fitted(tree) for name, tree in study.models.items()} == {
        "ae": "flow", "vae": "gmm", "vqvae": "autoregressive", "vae-beta4": "gmm",
    }  # fmt: skip


def test_rates_are_bits_and_an_autoencoder_has_none(study):
    assert rates(study.models["ae"]) == {}
    (rate,) = rates(study.models["vae"]).values()
    nats = Estimate.from_json(study.models["vae"]["kl"]["kl_nats"])
    assert rate.mean == pytest.approx(nats.mean / math.log(2))
    assert rate.low == pytest.approx(nats.low / math.log(2))
    assert [rate.mean for rate in rates(study.models["vqvae"]).values()] == [81.6, 128.0]


def drawn(axis):
    "The points and curves of an axis, by their labels."
    return {line.get_label(): line for line in axis.get_lines()}


def test_models_stand_at_their_rate_and_at_their_size(study):
    over_bits, over_numbers = rate_distortion(study).axes
    points = drawn(over_bits)
    mse = {name: tree["reconstruction"]["mse"]["mean"] for name, tree in study.models.items()}
    assert points["vae: KL"].get_xydata().tolist() == [[pytest.approx(24.6 / math.log(2)), mse["vae"]]]
    assert points["vqvae: learnt prior"].get_xydata().tolist() == [[81.6, mse["vqvae"]]]
    assert set(points["ae: continuous code, no finite rate"].get_ydata()) == {mse["ae"]}
    assert points["Gaussian source"].get_ydata().tolist() == study.metrics["gaussian_rate"]["mse"]
    points = drawn(over_numbers)
    assert points["PCA"].get_xdata().tolist() == [2, 4, 8, 16, 32, 64]
    assert points["ae"].get_xydata().tolist() == [[16, mse["ae"]]]
    assert points["vqvae"].get_xydata().tolist() == [[128, mse["vqvae"]]]
    for axis, label in ((over_bits, "vae: KL"), (over_numbers, "vae")):
        assert drawn(axis)[label].get_color() == study.colour("vae")


def test_steps_of_a_way_add_up_and_stand_above_the_border_of_their_images(study, pngs):
    (axis,) = smoothness(study).axes
    for name in study.models:
        shares = drawn(axis)[name].get_ydata()
        assert shares.sum() == pytest.approx(1)
        assert shares.argmax() + 1 == {"ae": 4, "vae": 5, "vqvae": 6}[name.partition("-")[0]]
    page = pixels(pngs["smoothness"])
    strip = grid(study.pictures["ae"][0]["interpolation"][0], 11)
    (_, left), *_ = places(page, strip)
    width, inner = page.shape[1], axis.transData.transform([(step, 0.0) for step in range(1, 11)])[:, 0]
    borders = [left + step * (28 * SCALE + GAP) + GAP / 2 for step in range(1, 11)]
    scale = width / axis.figure.bbox.width
    assert inner * scale == pytest.approx(borders, abs=0.6)


def test_what_a_metric_catches_is_filled(study):
    tree = study.metrics["study"]
    smallest = caught(tree)
    axes = iter(sensitivity(study).axes)
    for metric in tree["real"]:
        for family, steps in tree["families"].items():
            points = [line for line in next(axes).get_lines() if len(line.get_xdata()) == 1]
            start = smallest[metric][family]
            seen = [start is not None and step["strength"] >= start for step in steps]
            assert [point.get_markerfacecolor() == INK for point in points] == seen, (metric, family)
    assert next(axes, None) is None


def test_a_metric_that_is_worse_when_smaller_goes_up_where_it_falls(study):
    tree = study.metrics["study"]
    columns, rows = list(tree["families"]), list(tree["real"])
    axes = sensitivity(study).axes
    for metric in ("fd", "digit_rate"):
        curve = axes[rows.index(metric) * len(columns) + columns.index("noise")].get_lines()[0].get_ydata()
        assert curve[0] < curve[-1]
