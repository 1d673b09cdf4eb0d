"""Stage `train`: `python -m pipeline.train MODEL` trains one entry of params.yaml's models, all seeds."""

import sys
from operator import itemgetter
from pathlib import Path

from torch import Tensor

from randomz.batches import load_split
from randomz.checkpoint import save_tensors
from randomz.devices import Done, choose_device, each_seed
from randomz.files import empty_folder, write_csv
from randomz.graphs import own_stream
from randomz.live import LiveRuns
from randomz.models import load_kind
from randomz.params import load_params
from randomz.precision import warn_where_slow
from randomz.progress import progress
from randomz.resume import identity_of, open_checkpoints
from randomz.snapshots import Snapshots
from randomz.stage import SCRATCH, run_stage
from randomz.trainer import Data, Row, Say, build_seeded, fit

TRAIN, VALIDATION = Path("data/train.safetensors"), Path("data/validation.safetensors")


def train(name: str) -> None:
    """Fit every seed, or go on with it; write weights and history once all are done."""
    params = load_params()
    config = params.model(name)
    device = choose_device(forks=True)
    warn_where_slow(params.network.precision, device)
    kind = load_kind(config.kind)
    data = Data(train=load_split(TRAIN, device), validation=load_split(VALIDATION, device))
    used = {
        "seeds": params.seeds,
        "network": params.network.model_dump(mode="json"),
        "train": params.train.model_dump(mode="json"),
        "model": config.model_dump(mode="json"),
    }
    checkpoints = open_checkpoints(SCRATCH / f"train@{name}", identity_of(used, (TRAIN, VALIDATION), device))

    def snapshots(seed: int) -> Snapshots:
        return Snapshots(checkpoints.within(f"seed-{seed}/snapshots").folder, params.train.epochs)

    def task(seed: int, say: Say) -> dict[str, Tensor]:
        with own_stream(device):
            model = build_seeded(lambda: kind.build(config, params.network), seed).to(device)
            for row in fit(model, kind.loss, data, params.train, seed, checkpoints.within(f"seed-{seed}")):
                snapshots(seed).take(model, data.validation.images, int(row["epoch"]))
                say(row)
            return {key: tensor.cpu() for key, tensor in model.state_dict().items()}

    rows: list[Row] = []
    states: dict[int, dict[str, Tensor]] = {}
    total = params.train.epochs * len(params.seeds)
    with (
        progress(f"train {name}", total, "epoch") as bar,
        LiveRuns(params.publish.experiment, name, config.kind, params.seeds) as live,
    ):
        for event in each_seed(task, params.seeds, device, at_once=True):
            if isinstance(event, Done):
                states[event.seed] = event.result
            else:
                rows.append(event.row)
                live.log(event.seed, event.row)
                bar.advance({"loss": event.row["validation_total"]})
    weights, learning = Path(f"artifacts/{name}/weights"), Path(f"artifacts/{name}/snapshots")
    empty_folder(weights)
    empty_folder(learning)
    for seed, state in states.items():
        save_tensors(weights / f"seed-{seed}.safetensors", state)
        save_tensors(learning / f"seed-{seed}.safetensors", snapshots(seed).collect(data.validation.images))
    write_csv(Path(f"reports/{name}/history.csv"), sorted(rows, key=itemgetter("seed", "epoch")))
    checkpoints.clear()


if __name__ == "__main__":
    sys.exit(run_stage(f"train@{sys.argv[1]}", lambda: train(sys.argv[1])))
