import pytest
import torch

from randomz.quality.checks import check_features, check_finite


def test_good_features_pass():
    check_features("features", torch.zeros(1, 3), 3)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.zeros(4), r"^features must be a matrix \[N F\], but its shape is \(4,\)\.$"),
        (torch.zeros(4, 3, dtype=torch.int64), r"^features must hold floating-point numbers, .* torch.int64"),
        (torch.zeros(4, 2), r"^features has 2 feature dimensions, but 3 are needed here"),
        (torch.zeros(0, 3), r"^features is empty, with shape \(0, 3\)"),
        (torch.tensor([[0.0, torch.nan, torch.inf]]), r"^features must be finite, but 2 of its 3 values"),
    ],
)
def test_bad_features_are_refused(features, message):
    with pytest.raises(ValueError, match=message):
        check_features("features", features, 3)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_numbers_that_are_not_finite_are_refused(wrong):
    with pytest.raises(ValueError, match=r"^gaps must be finite, but 1 of its 2 values are not"):
        check_finite("gaps", torch.tensor([0.0, wrong]))
