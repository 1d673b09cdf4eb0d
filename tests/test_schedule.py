import itertools

import pytest

from randomz.schedule import one_cycle, triangle


@pytest.mark.parametrize(("schedule", "half_way"), [(one_cycle, 0.25), (triangle, 0.25)])
def test_it_rises_to_its_peak_and_falls_to_nothing(schedule, half_way):
    rates = [schedule(step, 100, 0.5, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.05)
    assert rates[9] == rates[10] == max(rates) == 0.5
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(half_way)
    assert 0 < rates[99] < 0.01
    assert schedule(100, 100, 0.5, 0.1) == pytest.approx(0)


@pytest.mark.parametrize("schedule", [one_cycle, triangle])
def test_a_single_step_is_at_the_peak(schedule):
    assert schedule(0, 1, 0.5, 0.1) == 0.5


def test_a_triangle_has_straight_sides_and_one_cycle_half_a_cosine():
    fall = [triangle(step, 100, 1.0, 0.1) for step in range(10, 101)]
    assert [a - b for a, b in itertools.pairwise(fall)] == pytest.approx([1 / 90] * 90)
    assert one_cycle(32, 100, 1.0, 0.1) > triangle(32, 100, 1.0, 0.1)
    assert one_cycle(78, 100, 1.0, 0.1) < triangle(78, 100, 1.0, 0.1)
