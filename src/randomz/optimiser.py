"""AdamW by torch's fused kernel, without torch.optim.Optimizer.

That class imports torch's compiler before its first step, two seconds in every stage that trains, and surrounds each
step with hooks and marks for profilers. The arithmetic here is the same to the bit, by torch's functional form.
"""

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.adamw import adamw

EPSILON = 1e-8  # torch's own


class AdamW:
    """Adam with decoupled weight decay (Loshchilov, Hutter 2019, arXiv:1711.05101)."""

    def __init__(self, parameters: Iterable[nn.Parameter], weight_decay: float, betas: tuple[float, float]) -> None:
        self.parameters = list(parameters)
        self.weight_decay, self.betas = weight_decay, betas
        self.exp_avg = [torch.zeros_like(each) for each in self.parameters]
        self.exp_avg_sq = [torch.zeros_like(each) for each in self.parameters]
        self.steps = [torch.zeros((), device=each.device) for each in self.parameters]  # one each: the kernel asks so

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, rate: float | Float[Tensor, ""]) -> None:
        """One step with this learning rate; a parameter without a gradient stays as it is.

        A rate that is a tensor on the parameters' GPU can be in a CUDA graph, whose replays read it anew.
        """
        moved = [index for index, parameter in enumerate(self.parameters) if parameter.grad is not None]
        parameters, exp_avg, exp_avg_sq, steps = (
            [of[index] for index in moved] for of in (self.parameters, self.exp_avg, self.exp_avg_sq, self.steps)
        )
        gradients = [gradient for each in parameters if (gradient := each.grad) is not None]
        adamw(
            parameters,
            gradients,
            exp_avg,
            exp_avg_sq,
            [],  # of AMSGrad
            steps,
            fused=True,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=rate,
            weight_decay=self.weight_decay,
            eps=EPSILON,
            maximize=False,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """The moments and counts, as `<index of the parameter>.<name>`; not copies."""
        named = {"exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq, "step": self.steps}
        return {f"{index}.{name}": tensor for name, of in named.items() for index, tensor in enumerate(of)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy the values in. Raises RuntimeError when names or shapes are others."""
        own = self.state_dict()
        if own.keys() != state.keys():
            raise RuntimeError(f"optimiser: found tensors {sorted(state)}; accepted: {sorted(own)}")
        for name, tensor in own.items():
            tensor.copy_(state[name])
