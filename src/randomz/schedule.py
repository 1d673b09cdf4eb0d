"""The learning rate of a step, as a pure function of the step, so that a resumed run needs no scheduler state."""

import math


def one_cycle(step: int, steps: int, peak: float, warmup: float) -> float:
    """A linear rise to the peak over a share `warmup` of the steps, then half a cosine to 0 (Smith & Topin 2019)."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return peak * (step + 1) / rise
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
