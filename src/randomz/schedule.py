"""The learning rate of a step, as a pure function of the step, so that a resumed run needs no scheduler state."""

import math


def triangle(step: int, steps: int, peak: float, warmup: float) -> float:
    """A linear rise to the peak over a share `warmup` of the steps, then a straight line to 0.

    For few epochs it beats half a cosine, which stays close to the peak and close to 0 for longer.
    """
    rise = max(1, round(warmup * steps))
    if step < rise:
        return peak * (step + 1) / rise
    return peak * (steps - step) / (steps - rise)


def one_cycle(step: int, steps: int, peak: float, warmup: float) -> float:
    """A linear rise to the peak over a share `warmup` of the steps, then half a cosine to 0 (Smith & Topin 2019)."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return peak * (step + 1) / rise
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
