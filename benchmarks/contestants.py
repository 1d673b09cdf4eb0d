"""One training in a process of its own: ours, or a peer's of the same networks from the same weights on the same data.

`python -m benchmarks.contestants ours|pythae|examples|lucidrains MODEL RESULT --epochs E --images N --seeds 0 1`;
`benchmarks.train` starts it and reads RESULT. What differs from params.yaml, for all of them alike, so that pythae's
own models minimise the very same loss:

- AE and VQ-VAE: the squared error, the only one that pythae has for them (here: gaussian with sigma^2 = 1/2). The VAE
  keeps its cross-entropies and has beta = 1.
- VQ-VAE: no dead entry is replaced, for pythae cannot; codebooks start alike, and learn by running means.
"""

import argparse
import math
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from randomz.batches import Split, load_split, pixels
from randomz.devices import Done, Progress, choose_device, each_seed
from randomz.files import write_json
from randomz.models import Kind, load_kind
from randomz.models.base import LatentModel
from randomz.params import ModelConfig, NetworkConfig, Params, TrainConfig, load_params
from randomz.resume import Checkpoints
from randomz.schedule import triangle
from randomz.seeding import generator
from randomz.trainer import START_IMAGES, Data, build_seeded, fit, mean_terms

TRAIN, VALIDATION = Path("data/train.safetensors"), Path("data/validation.safetensors")
BETAS = (0.9, 0.99)  # AdamW's, as in the trainer
GROUP = "peers"

Say = Callable[[int], None]


@dataclass(frozen=True)
class Task:
    """What is trained: one model of the contest, how, and on what."""

    network: NetworkConfig
    config: ModelConfig
    train: TrainConfig
    data: Data
    device: torch.device

    @property
    def kind(self) -> Kind:
        """The model's own code."""
        return load_kind(self.config.kind)

    def build(self, seed: int) -> LatentModel:
        """The model with the weights that all contestants start from."""
        return build_seeded(lambda: self.kind.build(self.config, self.network), seed).to(self.device)

    def start(self, model: LatentModel, seed: int) -> None:
        """What `fit` does before its first step."""
        model.start(pixels(self.data.train.images[:START_IMAGES]), generator("start", seed))

    def validation_loss(self, model: LatentModel, seed: int) -> float:
        """Nats per image, by the trainer's own definition."""
        return mean_terms(model, self.kind.loss, self.data.validation, seed)["total"]

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate of a step."""
        return triangle(step, self.train.epochs * steps_per_epoch, self.train.learning_rate, self.train.warmup)


@dataclass(frozen=True)
class Epoch:
    """When an epoch began and ended, in seconds since 1970, and the validation loss there, nats per image.

    The first one begins with the building of the model.
    """

    seed: int
    epoch: int
    began: float
    at: float
    validation: float


def contest_config(config: ModelConfig) -> ModelConfig:
    """The entry of params.yaml with the changes that the top of this file names."""
    changes: dict[str, Any] = {
        "ae": {"likelihood": "gaussian", "sigma": math.sqrt(0.5)},
        "vae": {"likelihood": "bernoulli", "sigma": None, "beta": 1.0},
        "vqvae": {"likelihood": "gaussian", "sigma": math.sqrt(0.5), "codebook": "ema", "restart": 0.0},
    }
    return type(config).model_validate(config.model_dump() | changes[config.kind])


def make_task(params: Params, model: str, epochs: int, images: int, device: torch.device) -> Task:
    """The contest over one model of params.yaml, on the first `images` and the same share of the validation images.

    Raises ValueError or OSError where there is no such model or data.
    """
    config = params.train.model_copy(update={"epochs": epochs, "binarise": False})
    train, validation = load_split(TRAIN, device), load_split(VALIDATION, device)
    held_out = max(1, round(len(validation) * images / len(train)))
    data = Data(first(train, images), first(validation, held_out))
    return Task(params.network, contest_config(params.model(model)), config, data, device)


def first(split: Split, count: int) -> Split:
    """So many images of a split; a copy, lest the rest stay in memory."""
    return Split(split.images[:count].clone(), split.labels[:count].clone())


def ours(task: Task, seeds: Sequence[int], change: Callable[[LatentModel], None] = lambda _: None) -> Iterator[Epoch]:
    """As the stage `train` does it: every seed a process on a CPU, with a checkpoint an epoch."""

    def work(seed: int, say: Callable[[dict[str, float]], None]) -> None:
        began = time.time()
        model = task.build(seed)
        change(model)
        with tempfile.TemporaryDirectory() as folder:
            for row in fit(model, task.kind.loss, task.data, task.train, seed, Checkpoints(Path(folder))):
                at = time.time()
                say({"epoch": row["epoch"], "began": began, "at": at, "validation": row["validation_total"]})
                began = at

    for event in each_seed(work, seeds, task.device):
        if isinstance(event, Progress):
            row = event.row
            yield Epoch(event.seed, int(row["epoch"]), row["began"], row["at"], row["validation"])
        else:
            assert isinstance(event, Done)


class DigitPictures(Dataset[tuple[Tensor, int]]):
    """As torchvision's MNIST with ToTensor: a picture of PIL is made of each image whenever it is asked for."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        from torchvision.transforms import ToTensor  # noqa: PLC0415 (only this contestant pays for the import)

        self.images, self.labels, self.transform = images.cpu(), labels.cpu(), ToTensor()

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "1 28 28"], int]:
        """One image in [0, 1] and its class."""
        from PIL import Image  # noqa: PLC0415

        picture = Image.fromarray(self.images[index].numpy())
        return self.transform(picture), int(self.labels[index])


def examples(task: Task, seed: int, model: LatentModel, say: Say) -> None:
    """A loop in the manner of pytorch/examples: a DataLoader over pictures, AdamW, a look at every step's loss."""
    gpu = task.device.type == "cuda"  # for which the examples have a worker and pinned memory
    train, validation = (
        DataLoader(
            DigitPictures(split.images, split.labels), task.train.batch_size, shuffle, num_workers=gpu, pin_memory=gpu
        )
        for split, shuffle in ((task.data.train, True), (task.data.validation, False))
    )
    torch.manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), betas=BETAS, weight_decay=task.train.weight_decay)
    task.start(model, seed)
    for epoch in range(task.train.epochs):
        model.train()
        total = 0.0
        for index, (x, _) in enumerate(train):
            step = epoch * len(train) + index
            optimiser.param_groups[0]["lr"] = task.rate(step, len(train))
            noise = generator("noise", seed, step)
            images = x.to(task.device)
            optimiser.zero_grad()
            output = model(images, noise)
            loss = task.kind.loss(model, output, images).total.mean()
            loss.backward()
            total += loss.item()
            optimiser.step()
            model.after_step(output, noise)
        model.eval()
        with torch.no_grad():
            for x, _ in validation:
                images = x.to(task.device)
                total += task.kind.loss(model, model(images, noise), images).total.sum().item()
        say(epoch + 1)


def peers() -> ModuleType:
    """The side of the peers. Raises ModuleNotFoundError that says how to get them."""
    try:
        return import_module("benchmarks.peers")  # here, for most commands do without them
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error.name} is not installed; `uv sync --group {GROUP}` installs what is compared with", name=error.name
        ) from error


def pythae(task: Task, seed: int, model: LatentModel, say: Say) -> None:
    """Its BaseTrainer over its own AE, VAE or VQ-VAE, with our networks as its encoder and decoder."""
    peers().train_with_pythae(task, seed, model, say)


def lucidrains(task: Task, seeds: Sequence[int]) -> Iterator[Epoch]:
    """Ours, but for the quantiser."""
    quantiser = peers().LucidrainsQuantiser

    def change(model: LatentModel) -> None:
        model.quantiser = quantiser(task.config)

    return ours(task, seeds, change)


def one_by_one(
    train: Callable[[Task, int, LatentModel, Say], None], task: Task, seeds: Iterable[int], finished: Say
) -> Iterator[Epoch]:
    """Seeds one after the other with all cores; each epoch's weights are kept, and measured when all is `finished`."""
    ends: list[tuple[int, int, float, float, dict[str, Tensor]]] = []
    models = {}
    began = time.time()
    for seed in seeds:
        model = models[seed] = task.build(seed)

        def say(epoch: int, seed: int = seed, model: LatentModel = model) -> None:
            nonlocal began
            at, state = time.time(), {key: value.clone() for key, value in model.state_dict().items()}
            ends.append((seed, epoch, began, at, state))
            began = at

        train(task, seed, model, say)
        began = time.time()
    finished(0)
    for seed, epoch, start, at, state in ends:
        models[seed].load_state_dict(state)
        yield Epoch(seed, epoch, start, at, task.validation_loss(models[seed], seed))


def processor_seconds() -> float:
    """Of this process, from its start, and of all that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def run(name: str, task: Task, seeds: Sequence[int]) -> dict[str, Any]:
    """Train; every epoch's end, and the time and the processor seconds when the training was over."""
    over: dict[str, float] = {}

    def finished(_: int = 0) -> None:
        over.update(finished=time.time(), processor_seconds=processor_seconds())

    if name in {"ours", "lucidrains"}:
        epochs = list({"ours": ours, "lucidrains": lucidrains}[name](task, seeds))
        finished()
    else:
        epochs = list(one_by_one({"pythae": pythae, "examples": examples}[name], task, seeds, finished))
    return over | {"images": len(task.data.train), "epochs": [asdict(epoch) for epoch in epochs]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Train once, write what came of it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contestants", description=__doc__)
    parser.add_argument("name", choices=("ours", "pythae", "examples", "lucidrains"))
    parser.add_argument("model", help="entry of params.yaml")
    parser.add_argument("result", type=Path, help="file that is written")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--images", type=int, required=True, help="of the training set")
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    asked = parser.parse_args(arguments)
    forks = asked.name in {"ours", "lucidrains"}
    device = choose_device(forks=forks)
    if not forks:
        torch.set_num_threads(os.cpu_count() or 1)
    task = make_task(load_params(), asked.model, asked.epochs, asked.images, device)
    write_json(asked.result, run(asked.name, task, asked.seeds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
