import math
from itertools import pairwise

import pytest
import torch
from synthetic import tiny_model

from randomz.models.base import LatentModel
from randomz.paths import STEPS, Paths, walk
from randomz.seeding import generator


class Decoder(LatentModel):
    """A decoder that is any function of codes; there is nothing to encode."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.device = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, noise):
        raise NotImplementedError

    def encode(self, x, noise=None):
        raise NotImplementedError

    def decode(self, codes):
        return self.function(codes).view(-1, 1, 28, 28)


def draw(key, count=30, dimensions=5):
    return torch.randn(count, dimensions, generator=generator("test_paths", key))


def pixels_of(numbers):
    """Images whose first pixels are these numbers, the others black."""
    images = torch.zeros(len(numbers), 784)
    images[:, : numbers.shape[1]] = numbers
    return images


def test_a_linear_decoder_fades_straight_and_evenly():
    weights = draw(0, 5, 784)
    starts, ends = draw(1), draw(2)
    paths = walk(Decoder(lambda z: z @ weights + 0.5), starts, ends)
    assert paths.change.shape == (30, STEPS) == (30, 10)
    assert paths.ratio == pytest.approx(1, abs=1e-5)
    assert paths.largest_step == pytest.approx(0.1, abs=1e-5)
    torch.testing.assert_close(paths.direct, ((ends - starts) @ weights).norm(dim=1))
    torch.testing.assert_close(paths.change, (paths.direct / 10)[:, None].expand(-1, 10), rtol=1e-3, atol=1e-3)


def test_a_decoder_that_jumps_changes_in_one_step():
    starts, ends = torch.zeros(4, 1), torch.ones(4, 1)
    paths = walk(Decoder(lambda z: pixels_of((z > 0.65).float())), starts, ends)
    assert paths.ratio == paths.largest_step == 1
    assert paths.change[0].tolist() == [0, 0, 0, 0, 0, 0, 1, 0, 0, 0]


def test_a_half_circle_is_as_long_as_its_chords():
    def circle(z):
        return pixels_of(torch.cat([(math.pi * z).cos(), (math.pi * z).sin()], 1))

    paths = walk(Decoder(circle), torch.zeros(3, 1), torch.ones(3, 1))
    assert paths.ratio == pytest.approx(10 * math.sin(math.pi / 20), rel=1e-5)  # ten chords over the diameter
    assert paths.largest_step == pytest.approx(0.1, rel=1e-5)


def test_figures_are_means_over_pairs_whatever_their_length():
    change = torch.zeros(2, 10)
    change[0, :2] = torch.tensor([3.0, 1.0])
    change[1, :4] = 50.0
    paths = Paths(change, torch.tensor([2.0, 200.0]))
    assert paths.ratio == pytest.approx((4 / 2 + 200 / 200) / 2)
    assert paths.largest_step == pytest.approx((3 / 4 + 1 / 4) / 2)


def test_pairs_that_do_not_move_are_left_out():
    starts, ends = draw(1), draw(2)
    decoder = Decoder(lambda z: pixels_of(z.square()))
    moving = walk(decoder, starts, ends)
    ends_too = torch.cat([ends, starts[:7]])
    both = walk(decoder, torch.cat([starts, starts[:7]]), ends_too)
    assert both.ratio == pytest.approx(moving.ratio, rel=1e-6)
    assert both.largest_step == pytest.approx(moving.largest_step, rel=1e-6)


def test_where_nothing_moves_both_figures_are_what_no_path_has():
    paths = walk(Decoder(lambda z: pixels_of(0 * z)), draw(1), draw(2))
    assert paths.ratio == paths.largest_step == 0


@pytest.mark.parametrize("kind", ["ae", "vae", "vqvae"])
def test_no_path_is_shorter_than_straight_nor_more_even_than_even(kind):
    model, _ = tiny_model(kind)
    model.eval()
    x = torch.rand(40, 1, 28, 28, generator=generator("test_paths"))
    with torch.no_grad():
        codes = model.encode(x)
        paths = walk(model, codes, codes.flip(0))
        if kind == "vqvae":  # an untrained codebook may be used at one entry only
            codes = torch.randint(6, (40, 2, 2), generator=generator("test_paths codes"))
            paths = walk(model, codes, codes.flip(0))
        ends = model.decode(codes)
    torch.testing.assert_close(paths.direct, (ends - ends.flip(0)).flatten(1).norm(dim=1), rtol=1e-3, atol=1e-5)
    assert bool((paths.change.sum(1) >= paths.direct * (1 - 1e-4)).all())
    assert paths.ratio >= 1 - 1e-4
    assert 0.1 - 1e-6 <= paths.largest_step <= 1


def test_the_only_path_of_a_codebook_goes_by_its_entries():
    model, _ = tiny_model("vqvae")
    model.eval()
    codes = torch.randint(6, (40, 2, 2), generator=generator("test_paths codes"))
    with torch.no_grad():
        steps = [model.decode(model.between(codes, codes.flip(0), step / 10)) for step in range(11)]
        paths = walk(model, codes, codes.flip(0))
    expected = torch.stack([(b - a).flatten(1).norm(dim=1) for a, b in pairwise(steps)], 1)
    torch.testing.assert_close(paths.change, expected)
