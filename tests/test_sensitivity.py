import pytest

from randomz.sensitivity import BAND, SMALLEST, caught, flattered, half_band, monotone

STRENGTHS = (0.1, 0.2, 0.5, 1.0)


def study(deviation=0.1, mean=1.0, **values):
    """A study of one family, with these values of each metric at STRENGTHS."""
    steps = [
        {"strength": strength, **{metric: row[place] for metric, row in values.items()}}
        for place, strength in enumerate(STRENGTHS)
    ]
    real = {metric: {"mean": mean, "deviation": deviation, "draws": 5} for metric in values}
    return {"samples": 500, "real": real, "families": {"noise": steps}}


def answer(question, values, metric="fd", **real):
    """What is said of one row of values."""
    return question(study(**real, **{metric: values}))[metric]["noise"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((2.0, 3.0, 4.0, 5.0), 0.1),
        ((1.0, 1.4, 1.6, 9.0), 0.5),
        ((1.0, 1.0, 1.0, 1.6), 1.0),
        ((1.0, 1.2, 0.8, 1.0), None),
        ((9.0, 9.0, 9.0, 1.0), None),  # the strongest failure looks real
        ((9.0, 1.0, 9.0, 9.0), 0.5),  # out by chance before
    ],
)
def test_the_smallest_strength_from_which_a_metric_stays_out_of_the_band(values, expected):
    assert answer(caught, values) == expected


def test_the_edge_of_the_band_is_inside():
    edge = 1 + BAND * 0.25
    assert answer(caught, (edge,) * 4, deviation=0.25) is None
    assert answer(caught, (edge + 1e-6,) * 4, deviation=0.25) == 0.1


@pytest.mark.parametrize("metric", ["fd", "fd_infinite", "kid"])
def test_a_distance_is_worse_when_it_is_larger(metric):
    assert answer(caught, (2.0,) * 4, metric) == 0.1
    assert answer(flattered, (2.0,) * 4, metric) is None
    assert answer(caught, (0.0,) * 4, metric) is None
    assert answer(flattered, (0.0,) * 4, metric) == 0.1


@pytest.mark.parametrize(
    "metric", ["precision", "recall", "density", "coverage", "digit_rate", "class_entropy", "authenticity"]
)
def test_any_other_metric_is_worse_when_it_is_smaller(metric):
    assert answer(caught, (0.0,) * 4, metric) == 0.1
    assert answer(flattered, (0.0,) * 4, metric) is None
    assert answer(caught, (2.0,) * 4, metric) is None
    assert answer(flattered, (2.0,) * 4, metric) == 0.1


def test_without_a_deviation_the_band_is_narrow_and_no_trap():
    assert half_band({"mean": 1.0, "deviation": 0.0}) == SMALLEST
    assert half_band({"mean": 1.0, "deviation": 1.0}) == BAND
    assert answer(caught, (1.0, 1.0 + 1e-9, 1.0 + SMALLEST / 2, 1.0), deviation=0.0) is None
    assert answer(caught, (1.0, 1.0, 1.0, 1.0 + 2 * SMALLEST), deviation=0.0) == 1.0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((2.0, 3.0, 4.0, 5.0), True),
        ((0.9, 0.5, 0.2, 0.0), True),
        ((1.0, 1.0, 1.0, 1.0), True),
        ((1.2, 0.8, 1.2, 0.8), True),  # chance
        ((2.0, 3.0, 2.6, 5.0), True),  # back within the tolerance
        ((2.0, 3.0, 2.4, 5.0), False),
        ((2.0, 3.0, 4.0, 1.0), False),
        ((0.0, 0.0, 0.0, 2.0), False),  # below real images, then above
        ((4.0, 3.6, 3.3, 3.0), False),  # back little by little
    ],
)
def test_a_metric_goes_one_way_or_turns_back(values, expected):
    assert answer(monotone, values) is expected


def test_every_metric_and_family_is_answered():
    tree = study(fd=(2.0,) * 4, recall=(2.0,) * 4)
    tree["families"]["copied"] = [{"strength": 0.0, "fd": 1.0, "recall": 0.0}]
    assert caught(tree) == {"fd": {"noise": 0.1, "copied": None}, "recall": {"noise": None, "copied": 0.0}}
    assert flattered(tree) == {"fd": {"noise": None, "copied": None}, "recall": {"noise": 0.1, "copied": None}}
    assert monotone(tree) == {metric: {"noise": True, "copied": True} for metric in ("fd", "recall")}
