from inspect import unwrap

import pytest
import torch

from randomz.quality.memory import authenticity, nearest_gaps
from randomz.seeding import generator


def draw(key, count=500, shift=0.0):
    return torch.randn(count, 8, generator=generator("test_memory", key)) + shift


def score(samples, training):
    return authenticity(samples, training, nearest_gaps(training))


def test_known_gaps():
    training = torch.tensor([[0.0], [1.0], [3.0], [3.0]])
    assert nearest_gaps(training).tolist() == [1.0, 1.0, 0.0, 0.0]


def test_known_value():
    training = torch.tensor([[0.0], [1.0], [4.0]])
    # Gaps 1, 1, 3. Distances to the nearest: -0.5 to 0 (0.5), 2.4 to 1 (1.4), 6 to 4 (2), 8 to 4 (4)
    samples = torch.tensor([[-0.5], [2.4], [6.0], [8.0]])
    assert score(samples, training) == 2 / 4


def test_a_sample_as_far_as_the_gap_is_not_authentic():
    assert score(torch.tensor([[-1.0]]), torch.tensor([[0.0], [1.0]])) == 0


def test_copies_score_0():
    training = draw(0)
    assert score(training, training) == 0
    assert score(training[:50] + 1e-6, training) == 0


def test_copies_score_0_where_training_images_repeat():
    training = draw(0, 50).repeat(2, 1)
    assert score(training[:10], training) == 0


def test_fresh_samples_score_a_half_or_somewhat_more():
    assert 0.5 < score(draw(1, 2000), draw(0, 2000)) < 0.65


def test_samples_of_another_kind_score_1():
    assert score(draw(1, shift=20.0), draw(0)) == 1


def test_part_of_copies_lowers_the_score_by_that_part():
    training, fresh = draw(0), draw(1)
    half = torch.cat([fresh[:250], training[:250]])
    assert score(half, training) == score(fresh[:250], training) / 2


def test_bad_input_is_refused():
    training = draw(0, 20)
    gaps = nearest_gaps(training)
    with pytest.raises(ValueError, match=r"^samples is empty"):
        authenticity(training[:0], training, gaps)
    with pytest.raises(ValueError, match=r"^samples must be finite"):
        authenticity(training.log(), training, gaps)
    with pytest.raises(ValueError, match=r"^training_gaps must be finite"):
        authenticity(training, training, gaps / 0)
    with pytest.raises(ValueError, match=r"^samples has 3 feature dimensions, but 8"):
        unwrap(authenticity)(training[:, :3], training, gaps)
    with pytest.raises(ValueError, match=r"^training_gaps must have the shape \(20,\), but it is \(19,\)"):
        unwrap(authenticity)(training, training, gaps[1:])
    with pytest.raises(ValueError, match=r"^k must lie from 1 to 0"):
        nearest_gaps(training[:1])
