import torch
from synthetic import tiny_model, tiny_params

from benchmarks import roofline


def test_operations_are_those_of_the_formula():
    network, config = tiny_params().network, tiny_params().model("ae")
    width, z, count = network.width, config.dimensions, 7
    encoder = 784 * width + width * width + width * z
    decoder = z * width + (width + z) * width + (width + z) * 784
    model, loss = tiny_model("ae")
    x = torch.rand(count, 1, 28, 28)
    forward = roofline.forward_operations(model, x)
    assert forward == 2 * count * (encoder + decoder)
    # Back, each product is done twice: for its weights and for what came in, which for pixels nobody asks for.
    assert roofline.step_operations(model, loss, x) == 3 * forward - 2 * count * 784 * width


def test_the_rate_is_that_of_a_product(monkeypatch):
    monkeypatch.setattr(roofline, "LEAST_SECONDS", 0.01)
    ticks = iter([0.0, 0.0, 1.0, 3.0, 0.005, 4.0, 4.5, 9.0])
    monkeypatch.setattr(roofline.time, "perf_counter", lambda: next(ticks))
    assert roofline.multiply_rate(torch.float32, torch.device("cpu"), 16) == 2 * 16**3 / 0.5
