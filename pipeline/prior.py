"""Stage `prior`: `python -m pipeline.prior MODEL` fits every prior to the codes of one trained model, all seeds."""

import sys
from operator import itemgetter
from pathlib import Path
from typing import Any

from torch import Tensor

from randomz.batches import load_split
from randomz.checkpoint import save_tensors
from randomz.devices import Done, choose_device, each_seed
from randomz.files import empty_folder, write_csv
from randomz.graphs import own_stream
from randomz.models import load_kind
from randomz.params import load_params
from randomz.priors import Say, build_priors, fit_priors, priors_state
from randomz.progress import progress
from randomz.resume import identity_of, open_checkpoints
from randomz.seeding import generator
from randomz.stage import SCRATCH, run_stage
from randomz.trained import encode_all, load_model

TRAIN, VALIDATION = Path("data/train.safetensors"), Path("data/validation.safetensors")


def prior(name: str) -> None:
    """Fit every seed, or go on with it; write priors and their history once all are done."""
    params = load_params()
    config = params.model(name)
    load_kind(config.kind)  # before the code at hand is asked for
    device = choose_device(forks=True)
    train, validation = load_split(TRAIN, device), load_split(VALIDATION, device)
    weights, folder = Path(f"artifacts/{name}/weights"), Path(f"artifacts/{name}/priors")
    used = {
        "seeds": params.seeds,
        "network": params.network.model_dump(mode="json"),
        "model": config.model_dump(mode="json"),
        "prior": getattr(params.prior, config.kind).model_dump(mode="json"),
    }
    checkpoints = open_checkpoints(SCRATCH / f"prior@{name}", identity_of(used, (TRAIN, VALIDATION, weights), device))

    def task(seed: int, say: Say) -> dict[str, Tensor]:
        with own_stream(device):
            model = load_model(params, name, weights / f"seed-{seed}.safetensors", device)
            codes = encode_all(model, train.images, generator("prior codes", seed))
            held_out = encode_all(model, validation.images, generator("prior validation codes", seed))
            priors = build_priors(params, name, model, seed)
            fit_priors(priors, codes, held_out, seed, say, checkpoints.within(f"seed-{seed}"))
            return priors_state(priors)

    rows: list[dict[str, Any]] = []
    states: dict[int, dict[str, Tensor]] = {}
    with progress(f"prior {name}", 0, "step") as bar:
        for event in each_seed(task, params.seeds, device, at_once=True):
            if isinstance(event, Done):
                states[event.seed] = event.result
            else:
                rows.append(event.row)
                bar.advance({"nats": event.row["validation_nats"]})
    empty_folder(folder)
    for seed, state in states.items():
        save_tensors(folder / f"seed-{seed}.safetensors", state)
    write_csv(Path(f"reports/{name}/prior.csv"), sorted(rows, key=itemgetter("seed")))
    checkpoints.clear()


if __name__ == "__main__":
    sys.exit(run_stage(f"prior@{sys.argv[1]}", lambda: prior(sys.argv[1])))
