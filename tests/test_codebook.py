from math import log2

import pytest
import torch

from randomz.codebook import codebook_use
from randomz.seeding import generator


def test_one_code_only():
    use = codebook_use(torch.full((3, 7, 7), 5), 8)
    assert (use.usage, use.perplexity, use.entropy_bits) == (1 / 8, 1, 0)
    assert use.counts.tolist() == [0, 0, 0, 0, 0, 147, 0, 0]


def test_even_use():
    use = codebook_use(torch.arange(96) % 12, 12)
    assert use.usage == 1
    assert use.perplexity == pytest.approx(12, rel=1e-14)
    assert use.entropy_bits == pytest.approx(log2(12), rel=1e-14)


def test_known_uneven_use():
    use = codebook_use(torch.tensor([[0, 0], [1, 3]]), 4)
    assert use.usage == 3 / 4
    assert use.entropy_bits == pytest.approx(1.5)
    assert use.perplexity == pytest.approx(2**1.5)
    assert use.counts.tolist() == [2, 1, 0, 1]


def test_shape_and_order_of_codes_change_nothing():
    stream = generator("test_codebook", 0)
    codes = torch.randint(0, 20, (6, 4, 4), generator=stream)
    shuffled = codes.flatten()[torch.randperm(96, generator=stream)]
    first, second = codebook_use(codes, 32), codebook_use(shuffled, 32)
    assert (first.usage, first.perplexity) == (second.usage, second.perplexity)
    assert torch.equal(first.counts, second.counts)


def test_entries_never_used_lower_only_the_usage():
    codes = torch.arange(10)
    small, large = codebook_use(codes, 10), codebook_use(codes, 40)
    assert (small.usage, large.usage) == (1, 0.25)
    assert small.perplexity == pytest.approx(large.perplexity)


def test_bad_codes_are_refused():
    with pytest.raises(ValueError, match=r"^codes is empty, with shape \(0, 7, 7\)"):
        codebook_use(torch.zeros(0, 7, 7, dtype=torch.int64), 8)
    with pytest.raises(ValueError, match=r"^codes must lie from 0 to K - 1 = 7, but found 0 to 8"):
        codebook_use(torch.arange(9), 8)
    with pytest.raises(ValueError, match=r"^codes must lie from 0 to K - 1 = 7, but found -1 to 3"):
        codebook_use(torch.tensor([-1, 3]), 8)
