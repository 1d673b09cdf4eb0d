from inspect import unwrap
from math import inf, log10

import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from randomz.quality import images as module
from randomz.quality.images import psnr, squared_error, ssim
from randomz.seeding import generator


def strokes(count=6):
    """Bright blobs on black, as digits are: flat areas, edges and grey pixels."""
    noise = torch.rand(count, 1, 28, 28, generator=generator("test_images", 0))
    smooth = torch.nn.functional.avg_pool2d(noise, 5, stride=1, padding=2)
    return ((smooth - 0.5) * 12).clamp(0, 1)


def noisy(images, amount=0.2):
    noise = torch.randn(images.shape, generator=generator("test_images", 1))
    return (images + amount * noise).clamp(0, 1)


def test_known_squared_error_sums_over_pixels():
    images, reconstructions = torch.zeros(2, 1, 28, 28), torch.zeros(2, 1, 28, 28)
    reconstructions[1] = 0.5
    assert squared_error(images, reconstructions).tolist() == [0, 784 / 4]


def test_known_psnr():
    images = torch.zeros(3, 1, 28, 28)
    reconstructions = images + torch.tensor([0.1, 1.0, 0.0]).view(3, 1, 1, 1)
    assert psnr(images, reconstructions).tolist() == pytest.approx([20, 0, inf], abs=1e-5)


def test_known_ssim_of_flat_images():
    """Without variance only the luminance term is left."""
    value = ssim(torch.full((1, 1, 28, 28), 0.5), torch.full((1, 1, 28, 28), 0.25))
    assert float(value) == pytest.approx((2 * 0.125 + 1e-4) / (0.25 + 0.0625 + 1e-4), rel=1e-6)


def test_psnr_agrees_with_torchmetrics():
    images = strokes()
    expected = peak_signal_noise_ratio(noisy(images), images, data_range=1.0, reduction="none", dim=(1, 2, 3))
    torch.testing.assert_close(psnr(images, noisy(images)), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("amount", [0.0, 0.01, 0.2, 1.0])
def test_ssim_agrees_with_torchmetrics(amount):
    images = strokes()
    reconstructions = noisy(images, amount)
    expected = structural_similarity_index_measure(
        reconstructions.double(), images.double(), data_range=1.0, reduction="none"
    )
    torch.testing.assert_close(ssim(images, reconstructions).double(), expected, rtol=0, atol=1e-6)
    single = structural_similarity_index_measure(reconstructions, images, data_range=1.0, reduction="none")
    torch.testing.assert_close(ssim(images, reconstructions), single, rtol=0, atol=1e-5)


def test_ssim_agrees_with_torchmetrics_beyond_the_range_of_images():
    images = strokes()
    reconstructions = images * 1.2 - 0.1
    expected = structural_similarity_index_measure(
        reconstructions.double(), images.double(), data_range=1.0, reduction="none"
    )
    torch.testing.assert_close(ssim(images, reconstructions).double(), expected, rtol=0, atol=1e-6)


def test_equal_images_are_alike():
    images = strokes()
    assert squared_error(images, images).tolist() == [0] * 6
    assert ssim(images, images).tolist() == [1] * 6


def test_noise_makes_every_measure_worse():
    images = strokes()
    for measure, sign in ((squared_error, 1), (psnr, -1), (ssim, -1)):
        values = [float(sign * measure(images, noisy(images, amount)).mean()) for amount in (0.05, 0.1, 0.4)]
        assert values == sorted(values)


def test_each_image_has_its_own_figure(monkeypatch):
    images = strokes()
    reconstructions = noisy(images)
    monkeypatch.setattr(module, "CHUNK", 4)
    for measure in (squared_error, psnr, ssim):
        alone = [float(measure(images[i : i + 1], reconstructions[i : i + 1])) for i in range(len(images))]
        assert measure(images, reconstructions).tolist() == pytest.approx(alone, rel=1e-6)


def test_psnr_is_squared_error_in_decibels():
    images = strokes()
    errors = squared_error(images, noisy(images)).tolist()
    expected = [-10 * log10(error / 784) for error in errors]
    assert psnr(images, noisy(images)).tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("measure", [squared_error, psnr, ssim])
def test_bad_images_are_refused(measure):
    images = strokes()
    with pytest.raises(ValueError, match=r"^reconstructions must be finite"):
        measure(images, images.log())
    with pytest.raises(ValueError, match=r"^images is empty"):
        measure(images[:0], images[:0])
    with pytest.raises(ValueError, match=r"^images must lie in \[0, 1\], but they go from 0 to 255"):
        measure(images * 255, images)
    with pytest.raises(ValueError, match=r"^images must have the shape \[N 1 28 28\], but it is \(6, 784\)"):
        unwrap(measure)(images.flatten(1), images.flatten(1))
    with pytest.raises(ValueError, match=r"^images are 6, but reconstructions 5"):
        unwrap(measure)(images, images[:5])
