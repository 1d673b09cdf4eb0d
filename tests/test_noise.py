import torch

from randomz.noise import Tape, draw, fill, new_buffer
from randomz.seeding import generator

CPU = torch.device("cpu")


def stream(step):
    return generator("test_noise", step)


def drawn_by(noise):
    """What a step draws: of two kinds, and one of them twice."""
    return [
        draw(noise, CPU, torch.randn, (3, 20)),
        draw(noise, CPU, torch.randint, 100, (7,)),
        draw(noise, CPU, torch.randn, (3, 20)),
    ]


def read(tape, rows):
    """What each of the steps with these rows gets."""
    got = []
    for row in rows:
        tape.rewind(row)
        got.append(drawn_by(tape))
    return got


def assert_same(a, b):
    assert len(a) == len(b)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_draw_is_torchs_own():
    assert torch.equal(draw(stream(0), CPU, torch.randn, (3, 20)), torch.randn(3, 20, generator=stream(0)))
    assert torch.equal(draw(stream(0), CPU, torch.randint, 9, (5,)), torch.randint(9, (5,), generator=stream(0)))


def test_a_tape_gives_every_step_what_it_would_have_drawn():
    tape = Tape(CPU, 4)
    for steps in (range(4), range(4, 8), range(8, 10)):  # the last of an epoch may be fewer
        tape.refill([stream(step) for step in steps])
        for step, got in zip(steps, read(tape, range(len(steps))), strict=True):
            assert_same(got, drawn_by(stream(step)))


def test_draws_stay_at_their_addresses():
    tape = Tape(CPU, 2)
    tape.refill([stream(0), stream(1)])
    first = read(tape, range(2))
    tape.refill([stream(2), stream(3)])
    for step, buffers, again in zip((2, 3), first, read(tape, range(2)), strict=True):
        assert [buffer.data_ptr() for buffer in buffers] == [buffer.data_ptr() for buffer in again]
        assert_same(buffers, drawn_by(stream(step)))  # who holds on to them sees the new draws


def test_a_buffer_has_room_for_more_rows_and_a_fill_leaves_the_others():
    buffer = new_buffer(torch.tensor([[1, 2], [3, 4]]), 3, CPU)
    assert buffer.shape == (3, 2)
    assert buffer.dtype == torch.int64
    fill(buffer, torch.tensor([[5, 6]]))
    assert buffer[:2].tolist() == [[5, 6], [3, 4]]
