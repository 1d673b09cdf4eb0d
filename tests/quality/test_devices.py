"""Every measure gives on a GPU what it gives on a CPU."""

import dataclasses

import pytest
import torch

from randomz.codebook import codebook_use
from randomz.quality.digits import ClassManifolds, class_entropy, digit_rate, fit_class_manifolds
from randomz.quality.frechet import feature_statistics, frechet_distance, frechet_distance_infinite
from randomz.quality.images import psnr, squared_error, ssim
from randomz.quality.kernel import kernel_distance
from randomz.quality.manifold import manifold_metrics
from randomz.quality.memory import authenticity, nearest_gaps
from randomz.seeding import generator


def measure(device):
    stream = generator("test_devices")
    real, fake = (torch.randn(400, 16, generator=stream).relu().to(device) for _ in range(2))
    images, reconstructions = (torch.rand(20, 1, 28, 28, generator=stream).to(device) for _ in range(2))
    labels = (torch.arange(400) % 10).to(device)
    reference = feature_statistics(real)
    fitted = fit_class_manifolds(real, labels, fake)
    manifolds = ClassManifolds.from_tensors(fitted.to_tensors())
    return {
        "fd": frechet_distance(reference, feature_statistics(fake)),
        "fd_infinite": frechet_distance_infinite(fake, reference, generator=stream),
        "kid": kernel_distance(real, fake),
        **dataclasses.asdict(manifold_metrics(real, fake)),
        "authenticity": authenticity(fake, real, nearest_gaps(real)),
        "threshold": manifolds.threshold,
        "digit_rate": digit_rate(manifolds, real),
        "class_entropy": class_entropy(labels, 10),
        "perplexity": codebook_use(labels, 16).perplexity,
        "squared_error": float(squared_error(images, reconstructions).mean()),
        "psnr": float(psnr(images, reconstructions).mean()),
        "ssim": float(ssim(images, reconstructions).mean()),
    }


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_figures_of_a_cpu():
    assert measure("cuda") == pytest.approx(measure("cpu"), rel=1e-5)
