"""Stage `prior`: `python -m pipeline.prior MODEL` fits every prior to the codes of one trained model, all seeds."""

import sys
from operator import itemgetter
from pathlib import Path
from typing import Any

from torch import Tensor

from randomz.batches import load_split
from randomz.checkpoint import save_tensors
from randomz.devices import Done, choose_device, each_seed
from randomz.files import write_csv
from randomz.params import load_params
from randomz.priors import Say, build_priors, fit_priors, priors_state
from randomz.progress import progress
from randomz.seeding import generator
from randomz.stage import run_stage
from randomz.trained import encode_all, load_model


def prior(name: str) -> None:
    """Fit every seed; write priors and their history once all are done."""
    params = load_params()
    device = choose_device()
    train = load_split(Path("data/train.safetensors"), device)
    validation = load_split(Path("data/validation.safetensors"), device)

    def task(seed: int, say: Say) -> dict[str, Tensor]:
        model = load_model(params, name, Path(f"artifacts/{name}/weights/seed-{seed}.safetensors"), device)
        codes = encode_all(model, train.images, generator("prior codes", seed))
        held_out = encode_all(model, validation.images, generator("prior validation codes", seed))
        priors = build_priors(params, name, model, seed)
        fit_priors(priors, codes, held_out, seed, say)
        return priors_state(priors)

    rows: list[dict[str, Any]] = []
    with progress(f"prior {name}", 0, "step") as bar:
        for event in each_seed(task, params.seeds, device):
            if isinstance(event, Done):
                save_tensors(Path(f"artifacts/{name}/priors/seed-{event.seed}.safetensors"), event.result)
            else:
                rows.append(event.row)
                bar.advance({"nats": event.row["validation_nats"]})
    write_csv(Path(f"reports/{name}/prior.csv"), sorted(rows, key=itemgetter("seed")))


if __name__ == "__main__":
    sys.exit(run_stage(f"prior@{sys.argv[1]}", lambda: prior(sys.argv[1])))
