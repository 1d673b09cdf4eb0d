import subprocess
import sys

import pytest
import torch
from torch import nn

from randomz.optimiser import AdamW

BETAS, DECAY = (0.9, 0.95), 0.1
RATES = (1e-2, 3e-3, 0.0, 2e-2)


def network():
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(5, 64), nn.SiLU(), nn.Linear(64, 3))
    made.unused = nn.Parameter(torch.ones(2))
    return made


def gradients(made, number):
    made[0].zero_grad()
    made[2].zero_grad()
    made(torch.linspace(-1, 1, 20).reshape(4, 5) * number).square().sum().backward()


def test_its_steps_are_those_of_torch_to_the_bit():
    ours, reference = network(), network()
    optimiser = AdamW(ours.parameters(), DECAY, BETAS)
    peer = torch.optim.AdamW(reference.parameters(), weight_decay=DECAY, betas=BETAS, fused=True)
    for number, rate in enumerate(RATES):
        gradients(ours, number)
        optimiser.step(rate)
        gradients(reference, number)
        peer.param_groups[0]["lr"] = rate
        peer.step()
        for own, other in zip(ours.parameters(), reference.parameters(), strict=True):
            assert torch.equal(own, other)
    assert torch.equal(ours.unused, torch.ones(2))
    assert not torch.equal(ours[0].weight, network()[0].weight)


def test_a_rate_in_a_tensor_is_that_number():
    one, other = network(), network()
    for made, rate in ((one, 0.25), (other, torch.tensor(0.25))):
        gradients(made, 1)
        AdamW(made.parameters(), DECAY, BETAS).step(rate)
    torch.testing.assert_close(one[0].weight, other[0].weight, rtol=0, atol=0)


def test_gradients_are_forgotten():
    made = network()
    optimiser = AdamW(made.parameters(), DECAY, BETAS)
    gradients(made, 1)
    optimiser.zero_grad()
    assert {parameter.grad for parameter in made.parameters()} == {None}


def test_a_state_of_another_network_is_refused_and_changes_nothing():
    optimiser = AdamW(network().parameters(), DECAY, BETAS)
    state = {name: torch.ones_like(tensor) for name, tensor in optimiser.state_dict().items()}
    del state["1.step"]
    with pytest.raises(RuntimeError, match=r"found tensors \['0.exp_avg', .* accepted: .*'1.step'"):
        optimiser.load_state_dict(state)
    assert not any(tensor.any() for tensor in optimiser.state_dict().values())


def test_a_step_leaves_the_compiler_alone():
    code = """
import sys, torch
from torch import nn
from randomz.optimiser import AdamW
made = nn.Linear(3, 2)
optimiser = AdamW(made.parameters(), 0.1, (0.9, 0.99))
made(torch.ones(1, 3)).sum().backward()
optimiser.step(0.1)
print("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
