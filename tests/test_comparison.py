from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from randomz.claims import Estimate
from randomz.comparison import Pairing, Row, as_markdown, as_text, compare, difference, pair, welch
from randomz.intervals import interval, summarise
from randomz.lock import Entry, Stage
from randomz.revisions import Results

A, B = (3.0, 1.0, 2.0), (3.5, 1.9, 2.4)


def tree(mse, **sampling):
    sampled = {"gmm": {"fd_ratio": mse, "density": mse, **sampling}}
    return {"kind": "vae", "parameters": 5} | summarise(
        [
            {
                "reconstruction": {"mse": mse[i], "psnr": -mse[i]},
                "sampling": {name: {key: value[i] for key, value in part.items()} for name, part in sampled.items()},
            }
            for i in range(len(mse))
        ]
    )


def results(label, models, seeds=(0, 1, 2), ruler="j", **params):
    stages = {}
    for model in models if seeds is not None else ():
        values = {"params.yaml": {"seeds": list(seeds), **params}}
        deps = (Entry(Path("judge/judge.safetensors"), ruler),)
        stages[f"evaluate@{model}"] = Stage(f"evaluate@{model}", deps, values, ())
    return Results(label, models, stages)


def only(a, b, **options):
    sections = compare(a, b, **options)
    assert len(sections) == 1
    return sections[0]


def by_path(section):
    return {row.path: row for row in section.rows}


def test_a_paired_interval_is_that_of_the_differences():
    found = difference(A, B, pair((0, 1, 2), (0, 1, 2))).difference
    expected = stats.ttest_rel(B, A).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.mean == pytest.approx(0.6)
    assert found.low == pytest.approx(interval([0.5, 0.9, 0.4])["low"])


def test_seeds_are_matched_by_their_number_whatever_their_order():
    shuffled = difference(A, (B[2], B[0], B[1]), pair((4, 5, 6), (6, 4, 5))).difference
    assert shuffled == difference(A, B, pair((4, 5, 6), (4, 5, 6))).difference


def test_pairing_finds_what_a_large_spread_over_seeds_hides():
    base, moved = (1.0, 5.0, 9.0), (1.10, 5.12, 9.11)
    paired = difference(base, moved, pair((0, 1, 2), (0, 1, 2)))
    unpaired = difference(base, moved, pair((0, 1, 2), (3, 4, 5)))
    assert paired.difference.mean == pytest.approx(unpaired.difference.mean)
    assert paired.marked
    assert not unpaired.marked


def test_only_common_seeds_count_and_both_means_are_of_them():
    row = difference(A, (9.0, 3.5, 1.9), pair((0, 1, 2), (7, 0, 1)))
    assert (row.a, row.b) == (2.0, 2.7)
    assert row.difference.per_seed == pytest.approx((0.5, 0.9))
    assert pair((0, 1, 2), (7, 0, 1)).remark == ("Paired over seeds 0, 1 (A has seeds 0, 1, 2, B has seeds 7, 0, 1).")


def test_without_common_seeds_the_interval_is_that_of_welch():
    b = (3.5, 1.9, 2.4, 8.0)
    found = difference(A, b, pair((0, 1, 2), (3, 4, 5, 6))).difference
    expected = stats.ttest_ind(b, A, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert pair((0, 1), (3,)).remark == "Unpaired: A has seeds 0, 1, B seed 3."


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 1, 2), (0, 1, 2), ((0, 1, 2), (0, 1, 2))),
        ((0, 1, 2), (2, 1), ((1, 2), (1, 0))),
        ((0,), (0, 1), ((0,), (0,))),
        ((0, 1), (1, 2), ((), ())),  # a single one in common gives no interval, and each side has two
        ((0,), (1,), ((), ())),
        (None, (0, 1), ((), ())),
    ],
)
def test_which_seeds_are_paired(a, b, expected):
    found = pair(a, b)
    assert (found.a, found.b) == expected
    assert found.remark.startswith("Paired over" if expected[0] else "Unpaired: ")


def test_single_values_have_no_interval_and_no_mark():
    for pairing in (pair((0,), (0,)), pair((0,), (1,))):
        row = difference((1.0,), (3.0,), pairing)
        assert (row.difference.mean, row.difference.low, row.difference.high) == (2.0, None, None)
        assert not row.marked
    assert "which gives no interval" in pair((0,), (0, 1)).remark


def test_equal_values_on_both_sides_have_an_interval_of_no_width():
    assert welch((2.0, 2.0), (2.0, 2.0)) == Estimate(0.0, 0.0, 0.0, ())
    assert not Row("x", 2.0, 2.0, welch((2.0, 2.0), (2.0, 2.0))).marked
    assert Row("x", 2.0, 3.0, welch((2.0, 2.0), (3.0, 3.0))).marked


def test_intervals_of_equal_distributions_exclude_zero_one_time_in_twenty():
    draws = np.random.default_rng(0).normal(size=(4000, 2, 3))
    for pairing in (pair((0, 1, 2), (0, 1, 2)), Pairing((), (), "")):
        marked = sum(difference(list(a), list(b), pairing).marked for a, b in draws)
        assert 0.02 < marked / len(draws) < 0.065  # Welch's interval is too wide for three values


def test_the_headline_is_short_and_everything_is_everything():
    a, b = results("old", {"vae": tree(A)}), results("new", {"vae": tree(B)})
    assert list(by_path(only(a, b))) == ["reconstruction/mse", "sampling/gmm/fd_ratio"]
    everything = by_path(only(a, b, everything=True))
    assert list(everything) == [
        "parameters", "reconstruction/mse", "reconstruction/psnr", "sampling/gmm/fd_ratio", "sampling/gmm/density",
    ]  # fmt: skip
    assert everything["reconstruction/psnr"].difference.mean == pytest.approx(-0.6)
    assert everything["parameters"].difference == Estimate(0.0, None, None, ())


def test_a_figure_of_one_side_has_no_difference():
    a, b = results("old", {"vae": tree(A)}), results("new", {"vae": tree(B, kid=A)})
    row = by_path(only(a, b))["sampling/gmm/kid"]
    assert (row.a, row.b, row.difference) == (None, 2.0, None)
    assert row.cells() == ["sampling/gmm/kid", "", "2.00", "", "", ""]


def test_a_model_of_one_side_is_named():
    a, b = results("old", {"ae": tree(A), "vae": tree(A)}), results("new", {"vae": tree(B), "x": tree(B)})
    sections = {section.model: section for section in compare(a, b)}
    assert list(sections) == ["ae", "vae", "x"]
    assert (sections["ae"].remarks, sections["ae"].rows) == (("Only A has it: old.",), ())
    assert sections["x"].remarks == ("Only B has it: new.",)
    assert sections["vae"].rows


def test_equal_figures_take_one_line():
    section = only(results("old", {"vae": tree(A)}), results("new", {"vae": tree(A)}))
    assert (section.remarks, section.rows) == (("The same figures on both sides.",), ())


def test_params_and_yardsticks_that_differ_are_named():
    a = results("old", {"vae": tree(A)}, **{"models.vae": {"beta": 1.0, "dimensions": 3}})
    b = results("new", {"vae": tree(B)}, (2, 1, 0), "k", **{"models.vae": {"beta": 4.0, "dimensions": 3}})
    remarks = only(a, b).remarks
    assert remarks[0] == "Params: models.vae.beta 1.0 → 4.0."
    assert remarks[1].startswith("Not measured with the same yardstick (judge/judge.safetensors)")
    assert len(remarks) == 3


def test_seeds_that_are_not_known_leave_figures_unpaired():
    known, unknown = results("old", {"vae": tree(A)}), results("new", {"vae": tree(B)}, None)
    assert only(known, unknown).remarks == ("Unpaired: dvc.lock of B does not say which seeds the figures are of.",)
    wrong = results("new", {"vae": tree(B)}, (0, 1))  # of three values
    assert only(wrong, wrong).rows == ()
    assert "Unpaired: dvc.lock of B" in only(known, wrong).remarks[0]
    row = by_path(only(known, wrong))["reconstruction/mse"]
    assert row.difference == welch(A, B)


def test_text_and_markdown_say_the_same():
    base = (1.0, 5.0, 9.0)
    a = results("old", {"vae": tree(base), "ae": tree(A)})
    b = results("new", {"vae": tree(tuple(x + y for x, y in zip(base, (0.10, 0.12, 0.11), strict=True)))})
    sections = compare(a, b)
    lines = as_text(a, b, sections).splitlines()
    row = next(line for line in lines if line.startswith("reconstruction/mse"))
    assert row.split() == ["reconstruction/mse", "5.00", "5.11", "0.110", "0.0852", "to", "0.135", "*"]
    header = lines[lines.index("vae") + 2]
    assert header.index("95 % interval") + len("95 % interval") == row.index("0.135") + len("0.135")
    assert lines[:2] == ["A: old", "B: new"]
    assert "Only A has it: old." in lines
    assert lines[-1].startswith("* The 95 % interval")
    written = as_markdown(a, b, sections)
    assert "| reconstruction/mse | 5.00 | 5.11 | 0.110 | 0.0852 to 0.135 | \\* |" in written
    assert written.splitlines()[-1].startswith("\\* The 95 % interval")
    assert "## ae\n\nOnly A has it: old.\n" in written


def test_no_table_needs_no_note():
    a = results("old", {"vae": tree(A)})
    assert "excludes 0" not in as_text(a, a, compare(a, a))
    assert "excludes 0" not in as_markdown(a, a, compare(a, a))
