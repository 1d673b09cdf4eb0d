"""Stage `evaluate`: `python -m pipeline.evaluate MODEL` measures one trained model and its priors, all seeds."""

import sys
from pathlib import Path

from torch import Tensor

from randomz.batches import load_split
from randomz.checkpoint import load_tensors, save_tensors
from randomz.devices import Done, choose_device, each_seed
from randomz.evaluation import describe, evaluate_seed
from randomz.files import read_json, write_json
from randomz.judge import load_judge
from randomz.params import load_params
from randomz.priors import Say, build_priors, load_priors
from randomz.progress import progress
from randomz.ruler import Ruler, Tree
from randomz.stage import run_stage
from randomz.trained import load_model
from randomz.yardstick import load_yardstick


def evaluate(name: str) -> None:
    """Measure every seed; write the metrics tree and the pictures once all are done."""
    params = load_params()
    kind = params.model(name).kind
    device = choose_device(forks=True)
    ruler = Ruler(
        yardstick=load_yardstick(Path("artifacts/yardstick.safetensors"), device),
        judge=load_judge(Path("judge/judge.safetensors"), device),
        floor_fd=read_json(Path("reports/yardstick.json"))["floor"]["fd"],
        train=load_split(Path("data/train.safetensors"), device),
        reference=load_split(Path(f"data/{params.yardstick.reference}.safetensors"), device),
        config=params.evaluate,
        binarise=params.train.binarise,
    )

    def task(seed: int, _: Say) -> tuple[Tree, dict[str, Tensor]]:
        model = load_model(params, name, Path(f"artifacts/{name}/weights/seed-{seed}.safetensors"), device)
        priors = build_priors(params, name, model, seed)
        load_priors(priors, load_tensors(Path(f"artifacts/{name}/priors/seed-{seed}.safetensors")), device)
        return evaluate_seed(model, kind, priors, ruler, seed)

    measured: dict[int, tuple[Tree, dict[str, Tensor]]] = {}
    with progress(f"evaluate {name}", len(params.seeds), "seed") as bar:
        for event in each_seed(task, params.seeds, device):
            if isinstance(event, Done):
                measured[event.seed] = event.result
                bar.advance({})
    model = load_model(params, name, Path(f"artifacts/{name}/weights/seed-{params.seeds[0]}.safetensors"), device)
    tree = describe(model, kind, [measured[seed][0] for seed in params.seeds], ruler)
    for seed, (figures, pictures) in measured.items():
        save_tensors(Path(f"artifacts/{name}/pictures/seed-{seed}.safetensors"), pictures)
        # The figures stand beside the pictures because `report` depends on the folder of all models' artifacts:
        # dvc.yaml cannot name one file for each entry of params.yaml in a single stage.
        write_json(Path(f"artifacts/{name}/pictures/seed-{seed}.json"), figures)
    write_json(Path(f"reports/{name}/metrics.json"), tree)


if __name__ == "__main__":
    sys.exit(run_stage(f"evaluate@{sys.argv[1]}", lambda: evaluate(sys.argv[1])))
