"""The libraries that are compared with: nothing but `benchmarks.contestants` imports this, for few have them."""

import logging
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int64
from pythae.data.datasets import BaseDataset
from pythae.models import AE, VAE, VQVAE, AEConfig, VAEConfig, VQVAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback
from torch import Tensor, nn
from vector_quantize_pytorch import VectorQuantize

from benchmarks import contestants
from randomz.batches import Split, pixels
from randomz.models.base import LatentModel

SHAPE = (1, 28, 28)


class Encoder(BaseEncoder):  # type: ignore[misc]  # pythae has no types
    """Our encoder as pythae's: z, or the mean and the log variance of z, or a grid of vectors [B D h w]."""

    def __init__(self, model: LatentModel, kind: str) -> None:
        super().__init__()
        self.network: Any = model.encoder
        self.kind, self.grid = kind, getattr(model, "shape", None)

    def forward(self, x: Float[Tensor, "B 1 28 28"]) -> Any:  # noqa: ANN401
        """What pythae's model of that kind takes."""
        h = self.network(x)
        if self.kind == "vae":
            mu, logvar = h.chunk(2, dim=-1)
            return ModelOutput(embedding=mu, log_covariance=logvar)
        return ModelOutput(embedding=h.view(-1, *self.grid).permute(0, 3, 1, 2) if self.grid else h)


class Decoder(BaseDecoder):  # type: ignore[misc]
    """Our decoder as pythae's: mean images."""

    def __init__(self, model: LatentModel) -> None:
        super().__init__()
        self.network: Any = model.decoder
        self.grid = hasattr(model, "shape")

    def forward(self, z: Tensor) -> Any:  # noqa: ANN401
        """Images of z, or of the vectors of a grid."""
        flat = z.permute(0, 2, 3, 1).flatten(1) if self.grid else z
        return ModelOutput(reconstruction=torch.sigmoid(self.network(flat)))


class Watch(TrainingCallback):  # type: ignore[misc]
    """The learning rate of every step, as ours has it, and word of every epoch's end."""

    def __init__(self, task: "contestants.Task", say: Callable[[int], None]) -> None:
        self.task, self.say = task, say
        self.trainer: Any = None
        self.steps = self.epochs = 0

    def on_train_step_begin(self, *_: object, **__: object) -> None:
        """Pythae's name for the start of an epoch."""
        self._set_rate()

    def on_train_step_end(self, *_: object, **__: object) -> None:
        """The next step's rate."""
        self.steps += 1
        self._set_rate()

    def on_epoch_end(self, *_: object, **__: object) -> None:
        """After validation."""
        self.epochs += 1
        self.say(self.epochs)

    def _set_rate(self) -> None:
        rate = self.task.rate(self.steps, len(self.trainer.train_loader))
        self.trainer.optimizer.param_groups[0]["lr"] = rate


def pythae_model(task: "contestants.Task", model: LatentModel) -> Any:  # noqa: ANN401
    """Pythae's own model of this kind, whose encoder and decoder are those of `model` themselves."""
    config: Any = task.config
    encoder, decoder = Encoder(model, config.kind), Decoder(model)
    if config.kind == "ae":
        return AE(AEConfig(input_dim=SHAPE, latent_dim=config.dimensions), encoder, decoder)
    if config.kind == "vae":
        own = VAEConfig(input_dim=SHAPE, latent_dim=config.dimensions, reconstruction_loss="bce")
        return VAE(own, encoder, decoder)
    own = VQVAEConfig(
        input_dim=SHAPE,
        latent_dim=config.dimensions,
        # Its commitment is a mean over all numbers of the grid, ours their sum.
        commitment_loss_factor=config.beta * config.grid**2 * config.dimensions,
        num_embeddings=config.codes,
        use_ema=True,
        decay=config.decay,
    )
    return VQVAE(own, encoder, decoder)


def copy_codebook(source: Any, target: Any) -> None:  # noqa: ANN401
    """Our quantiser's codebook with its running means into pythae's quantiser."""
    target.embeddings.copy_(source.codebook)
    target.cluster_size.copy_(source.ema_count)
    target.ema_embed.copy_(source.ema_sum)


def dataset(split: Split) -> BaseDataset:
    """Images as numbers in memory: nothing is left to do to an image when it is asked for."""
    return BaseDataset(pixels(split.images).cpu(), split.labels.cpu())


def train_with_pythae(task: "contestants.Task", seed: int, model: LatentModel, say: Callable[[int], None]) -> None:
    """Train the networks of `model` in place, by pythae's trainer as it comes.

    It has no worker processes for data by default, validates once an epoch and keeps a copy of the best model.
    """
    logging.getLogger("pythae").setLevel(logging.ERROR)
    task.start(model, seed)
    wrapped = pythae_model(task, model).to(task.device)
    quantiser = getattr(model, "quantiser", None)

    def epoch_ended(epoch: int) -> None:
        if quantiser is not None:
            quantiser.codebook.copy_(wrapped.quantizer.embeddings)
        say(epoch)

    watch = Watch(task, epoch_ended)
    with tempfile.TemporaryDirectory() as folder:
        config = BaseTrainerConfig(
            output_dir=folder,
            per_device_train_batch_size=task.train.batch_size,
            per_device_eval_batch_size=1000,
            num_epochs=task.train.epochs,
            optimizer_cls="AdamW",
            optimizer_params={"betas": contestants.BETAS, "weight_decay": task.train.weight_decay},
            learning_rate=task.train.learning_rate,
            seed=seed,
            no_cuda=task.device.type == "cpu",
        )
        data = task.data
        watch.trainer = BaseTrainer(wrapped, dataset(data.train), dataset(data.validation), config, [watch])
        if quantiser is not None:  # here, for a trainer tries its model on a batch when it is made
            copy_codebook(quantiser, wrapped.quantizer)
        watch.trainer.train()


class LucidrainsQuantiser(nn.Module):
    """vector-quantize-pytorch's codebook in the place of ours: it learns while it is asked."""

    def __init__(self, config: Any) -> None:  # noqa: ANN401
        super().__init__()
        self.config = config
        self.quantiser = VectorQuantize(
            config.dimensions,
            config.codes,
            decay=config.decay,
            kmeans_init=config.start == "kmeans",
            kmeans_iters=10,
            threshold_ema_dead_code=0,
            commitment_weight=0.0,  # ours is in the loss already
            rotation_trick=False,
        )

    @property
    def codebook(self) -> Float[Tensor, "K D"]:
        """Its entries."""
        found: Tensor = self.quantiser.codebook
        return found

    @property
    def ema_count(self) -> Float[Tensor, " K"]:
        """How often each is chosen, a running mean."""
        found: Tensor = self.quantiser._codebook.cluster_size.flatten()  # noqa: SLF001 (it has no other name)
        return found

    def forward(self, z_e: Float[Tensor, "B h w D"]) -> tuple[Float[Tensor, "B h w D"], Int64[Tensor, "B h w"]]:
        """The nearest entry of each vector and its index."""
        e, codes, _ = self.quantiser(z_e.detach().flatten(1, 2))
        return e.view(z_e.shape), codes.view(z_e.shape[:-1])

    def start(self, z_e: Float[Tensor, "M D"], noise: torch.Generator) -> None:  # noqa: ARG002
        """It starts from the first vectors that it is asked for in training."""
        self.train()
        self.quantiser(z_e[None])

    def update(self, *_: object) -> None:
        """It has learned already."""
