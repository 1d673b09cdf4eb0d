"""Whether the peers train the very same thing; only where `uv sync --group peers` has installed them."""

import pytest
import torch
from test_benchmarks_contestants import tiny_task

from benchmarks.contestants import run
from randomz.batches import pixels
from randomz.trainer import fit

pytest.importorskip("pythae")
pytest.importorskip("vector_quantize_pytorch")
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs

from benchmarks import peers  # noqa: E402


@pytest.mark.parametrize("name", ["ae", "vae", "vqvae"])
def test_pythae_minimises_our_loss(name, monkeypatch):
    task = tiny_task(name)
    model = task.build(0)
    task.start(model, 0)
    wrapped = peers.pythae_model(task, model)
    if name == "vqvae":
        peers.copy_codebook(model.quantiser, wrapped.quantizer)
    wrapped.eval()
    x = pixels(task.data.train.images[: task.train.batch_size])
    noise = torch.Generator().manual_seed(3)
    if name == "vae":
        eps = torch.randn(len(x), task.config.dimensions, generator=noise)
        monkeypatch.setattr(wrapped, "_sample_gauss", lambda mu, std: (mu + eps * std, eps))
    ours = task.kind.loss(model, model(x, noise.manual_seed(3)), x).total.mean()
    constant = 0 if name == "vae" else 784 * 0.5 * torch.log(torch.tensor(torch.pi))
    assert float(wrapped({"data": x}).loss + constant) == pytest.approx(float(ours), rel=1e-5)


@pytest.mark.parametrize("name", ["ae", "vae", "vqvae"])
def test_pythae_learns_what_ours_does(name):
    task = tiny_task(name)
    with torch.random.fork_rng():
        found = run("pythae", task, [0])
    rows = list(fit(task.build(0), task.kind.loss, task.data, task.train, 0))
    assert found["epochs"][-1]["validation"] == pytest.approx(rows[-1]["validation_total"], rel=0.05)
    assert found["epochs"][-1]["validation"] < task.validation_loss(task.build(0), 0)


def test_their_quantiser_gives_the_nearest_entry():
    task = tiny_task("vqvae")
    quantiser = peers.LucidrainsQuantiser(task.config)
    z_e = torch.randn(50, 2, 2, 4)
    quantiser.start(z_e.flatten(0, 2), torch.Generator())
    quantiser.eval()
    e, codes = quantiser(z_e)
    distances = torch.cdist(z_e.flatten(0, 2), quantiser.codebook)
    assert torch.equal(codes.flatten(), distances.argmin(1))
    assert torch.allclose(e.flatten(0, 2), quantiser.codebook[codes.flatten()])
