"""The aggregate posterior q(z), which is q(z | x) averaged over images, beside the prior p(z) of a VAE.

The mean over images of KL(q(z | x) || p(z)) is I(x; z) + KL(q(z) || p(z)) (Hoffman & Johnson 2016, "ELBO surgery"):
what a code tells of its image, and what is wrong with random z from the prior. The density of q(z) is not at hand, but
any other density r bounds the second part from below: KL(q || p) = E_q[log r - log p] + KL(q || r).

N images, d latent dimensions.
"""

import math
from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from randomz.gaussian import DiagonalGaussian
from randomz.priors import Prior

PRIOR = "standard_normal"
SMALLEST_DEVIATION = 1e-6  # of mu over images: a dimension that never moves is unused, not infinitely so


def posterior_deviation(posterior: DiagonalGaussian) -> float:
    """Mean sigma(x) over the standard deviation of mu(x), both over images, of the median dimension; mu is [N d].

    0 for an autoencoder, whose codes are points; 1 and more where codes overlap. A mean over dimensions would speak of
    those alone that are not used: each of them has up to 1e6.
    """
    spread = posterior.mu.double().std(0).clamp(min=SMALLEST_DEVIATION)
    return float((posterior.sigma.double().mean(0) / spread).quantile(0.5))


def aggregate_kl(z: Float[Tensor, "N d"], priors: Mapping[str, Prior]) -> float:
    """Lower bound on KL(q(z) || p(z)), nats: the largest that a fitted density gives, or 0 where none gives more.

    `z` are draws from q(z | x), one an image, of images that no prior was fitted to. `priors` hold p(z), which is
    N(0, I), and densities fitted to codes. Raises ValueError when there is no fitted density, or one that gives NaN.
    """
    fitted = {name: prior for name, prior in priors.items() if name != PRIOR}
    if PRIOR not in priors or not fitted:
        raise ValueError(f"priors are {', '.join(priors) or 'none'}; {PRIOR} and a fitted density are needed")
    expected = float(priors[PRIOR].log_prob(z).double().mean())
    bounds = {name: float(prior.log_prob(z).double().mean()) - expected for name, prior in fitted.items()}
    for name, bound in bounds.items():
        if math.isnan(bound):
            raise ValueError(f"the density of prior {name} is NaN at some of {len(z)} codes; numbers are accepted")
    return max(0.0, *bounds.values())
