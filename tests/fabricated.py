"""Plausible files of all stages before the report, for tests: strokes for digits, figures of the right size."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from randomz.checkpoint import save_tensors
from randomz.files import write_csv, write_json
from randomz.params import Params
from randomz.seeding import generator

SAMPLERS = {
    "ae": {"standard_normal": 1500.0, "gaussian": 70.0, "gmm": 3.4, "flow": 2.9, "posterior": 1.6},
    "vae": {"standard_normal": 45.0, "gaussian": 40.0, "gmm": 6.1, "flow": 6.6, "posterior": 3.9},
    "vqvae": {"uniform": 440.0, "position": 190.0, "autoregressive": 14.0, "posterior": 1.2},
}
MODELS = {
    "ae": {"kind": "ae", "likelihood": "bernoulli", "dimensions": 16},
    "vae": {"kind": "vae", "likelihood": "bernoulli", "dimensions": 16, "beta": 1.0},
    "vqvae": {
        "kind": "vqvae", "likelihood": "bernoulli", "grid": 4, "codes": 256, "dimensions": 8, "beta": 0.25,
        "codebook": "ema", "decay": 0.99, "start": "kmeans", "restart": 1.0,
    },
}  # fmt: skip
DENSITY = {
    "gmm": {"codes": 20000, "components": (30, 100), "iterations": 30, "shrinkage": 100.0},
    "flow": {"transforms": 3, "width": 128, "epochs": 20, "batch_size": 500, "learning_rate": 2e-3},
}
PCA = {"2": 0.0557, "4": 0.0479, "8": 0.0374, "16": 0.0269, "32": 0.0168, "64": 0.00905}
GAUSSIAN_RATE = {
    "bits": [0.0, 1.2, 5.1, 13.2, 28.7, 54.7, 95.3, 157.0, 249.0, 390.0, 585.0],
    "mse": [0.0673, 0.0604, 0.0492, 0.0380, 0.0277, 0.0195, 0.0133, 0.00885, 0.00568, 0.00337, 0.00183],
}
# Failures in the order of their strength, and which metrics do not move with them.
STRENGTHS = {
    "noise": (0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
    "blur": (0.5, 0.75, 1.0, 1.5, 2.0),
    "shuffle": (0.05, 0.1, 0.2, 0.5, 1.0),
    "dropped_classes": (1, 3, 5, 7, 9),
    "copied": (0.1, 0.25, 0.5, 0.75, 1.0),
}
BLIND = {
    "noise": {"class_entropy"},
    "blur": {"class_entropy"},
    "shuffle": {"recall"},
    "dropped_classes": {"precision", "density", "digit_rate", "authenticity"},
    "copied": {"fd", "fd_infinite", "kid", "precision", "recall", "density", "coverage", "digit_rate", "class_entropy"},
}
EXPERIMENTS = {
    "codebook": ("vqvae", "vqvae-gradient", "vqvae-no-restart", "vqvae-64", "vqvae-256", "vqvae-1024"),
    "binarised": ("vae",),
    "vae-without-kl": ("vae",),
    "second-judge": ("ae", "vae", "vqvae"),
}
PRIORS = {
    "ae": DENSITY,
    "vae": DENSITY,
    "vqvae": {
        "clusters": 512, "units": 64, "embedding": 32, "depth": 1, "epochs": 10, "batch_size": 250,
        "learning_rate": 2e-3, "weight_decay": 0.02, "dropout": 0.1,
    },
}  # fmt: skip


def make_params(models=("ae", "vae", "vqvae"), seeds=(0, 1, 2)):
    "Params with the named models; a name such as vae-beta4 is of the kind before its dash."
    return Params.model_validate(
        {
            "seeds": tuple(seeds),
            "prepare": {"validation": 5000, "seed": 0},
            "judge": {
                "epochs": 1, "batch_size": 256, "learning_rate": 4e-3, "weight_decay": 1e-2, "shift": 0.07,
                "rotation": 12.0, "seed": 0,
            },
            "yardstick": {"reference": "test", "samples": 10000, "neighbours": 5, "accept": 0.95, "seed": 0},
            "study": {"samples": 5000, "seed": 0},
            "network": {"width": 512, "encoder_depth": 2, "decoder_depth": 2, "precision": "float32"},
            "train": {
                "epochs": 5, "batch_size": 256, "learning_rate": 2e-3, "weight_decay": 1e-4, "warmup": 0.1,
                "binarise": False,
            },
            "models": {name: MODELS[name.partition("-")[0]] for name in models},
            "prior": PRIORS,
            "evaluate": {"samples": 10000, "bound_images": 500, "probe_images": 10000},
            "publish": {"experiment": "randomz"},
        }
    )  # fmt: skip


def over_seeds(mean, seeds, *, spread=0.02):
    "A figure over so many seeds, with values that differ from seed to seed."
    if seeds == 1:
        return {"mean": mean, "low": None, "high": None, "per_seed": [mean]}
    offsets = [2 * place / (seeds - 1) - 1 for place in range(seeds)]
    values = [mean + offset * spread * abs(mean) for offset in offsets]
    half = 2.5 * spread * abs(mean)
    return {"mean": mean, "low": mean - half, "high": mean + half, "per_seed": values}


def quality(ratio):
    "Plain figures of a set of images whose Frechet distance is `ratio` times the floor."
    good = 1 / (1 + math.log10(max(ratio, 1)) ** 2)
    return {
        "fd": 2.2 * ratio, "fd_infinite": 2.0 * ratio, "kid": 1e-3 * ratio,
        "precision": 0.7 * good, "recall": 0.6 * good, "density": good, "coverage": 0.9 * good,
        "digit_rate": 0.95 * good, "class_entropy": 2.3 * good, "authenticity": 1 - 0.4 * good,
    }  # fmt: skip


def metrics(kind, seeds):
    "The metrics tree of a model, as the stage evaluate writes it."
    figure = {"ae": 1.0, "vae": 2.0, "vqvae": 0.8}[kind]

    def s(mean):
        return over_seeds(mean, seeds)

    tree = {
        "kind": kind,
        "parameters": 1_234_567,
        "reconstruction": {
            "squared_error": s(5.6 * figure), "mse": s(0.00714 * figure), "psnr": s(21.5), "ssim": s(0.93),
            "fd_reconstruction": s(3.5), "pca_mse": 0.0268,
        },
        "latent": {
            "knn_accuracy": s(0.965), "linear_accuracy": s(0.90), "fd_interpolation": s(160 / figure),
            "digit_rate_interpolation": s(0.5 * figure / 2), "path_ratio": s(1 + 0.3 * figure),
            "largest_step": s(0.14 * figure),
        },
    }  # fmt: skip
    if kind == "vae":
        bound = {"1": -104.1, "10": -101.3, "100": -100.2, "1000": -99.6}
        tree["kl"] = {
            "kl_nats": s(24.6), "active_units": s(15.4), "elbo": s(-104.0),
            "bound": {k: s(mean) for k, mean in bound.items()},
            "bound_standard_error": {k: s(1.1) for k in bound},
            "bound_images": over_seeds(500.0, seeds, spread=0.0),
            "posterior_deviation": s(0.31), "aggregate_kl": s(3.2), "mutual_information": s(21.4),
        }  # fmt: skip
    if kind == "vqvae":
        tree["codebook"] = {
            "perplexity": over_seeds(214.0, seeds), "usage": over_seeds(0.995, seeds, spread=0.001),
            "entropy_bits": s(7.74), "prior_bits_per_code": s(5.1), "prior_bits_per_image": s(81.6),
            "nominal_bits_per_image": over_seeds(128.0, seeds, spread=0.0),
        }  # fmt: skip
    tree["sampling"] = {
        sampler: {name: over_seeds(value, seeds) for name, value in {"fd_ratio": ratio, **quality(ratio)}.items()}
        for sampler, ratio in SAMPLERS[kind].items()
    }
    return tree


def strokes(count, *keys):
    "Images with two thick strokes each."
    draw = generator("strokes", *keys)
    points = torch.rand(count, 3, 2, generator=draw) * 16 + 6
    ends = torch.stack([points[:, :2], points[:, 1:]], 2)
    position = torch.stack(torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij"), -1)
    start, along = ends[:, :, 0, None, None], (ends[:, :, 1] - ends[:, :, 0])[:, :, None, None]
    share = (((position - start) * along).sum(-1) / along.square().sum(-1)).clamp(0, 1)
    distance = (position - start - share[..., None] * along).norm(dim=-1).amin(1)
    return (255 * torch.sigmoid(3 * (1.6 - distance))).round().to(torch.uint8)


def noisy(images, share, *keys):
    "Images of which a share of each is replaced by blotches."
    blotches = torch.rand(len(images), 7, 7, generator=generator("blotches", *keys)) * 255
    blotches = blotches.repeat_interleave(4, 1).repeat_interleave(4, 2)
    return ((1 - share) * images + share * blotches).round().to(torch.uint8)


def pictures(kind, place, seed):
    "The tensors of a seed's pictures, as the stage evaluate writes them."
    originals = strokes(20)
    ends = originals[:6].float(), originals[6:12].float()
    walk = torch.stack([((1 - w) * ends[0] + w * ends[1]) for w in torch.linspace(0, 1, 11)], 1)
    tensors = {
        "originals": originals,
        "reconstructions": noisy(originals, 0.1, place, seed),
        "interpolation": walk.round().to(torch.uint8),
    }
    for sampler, ratio in SAMPLERS[kind].items():
        share = min(0.9, math.log10(ratio) / 3)
        tensors[f"samples.{sampler}"] = noisy(strokes(100, place, seed, int(ratio)), share, place, seed)
    late = {"ae": 4.0, "vae": 5.0, "vqvae": 6.5}[kind]
    tensors["path_change"] = 0.4 + torch.exp(-0.3 * (torch.arange(1.0, 11) - late).square())
    if kind == "vae":
        tensors["kl_per_dimension"] = torch.linspace(3, 0.1, 16)[torch.randperm(16, generator=generator("kl", seed))]
    if kind == "vqvae":
        tensors["code_counts"] = torch.poisson(torch.linspace(900, 300, 256), generator=generator("codes", seed)).long()
    return tensors


def history(kind, seeds, epochs=5):
    "The rows of history.csv."
    rows = []
    for seed in seeds:
        for epoch in range(1, epochs + 1):
            fall = math.exp(-epoch) * (1 + 0.1 * seed)
            terms = {"total": 80 + 60 * fall, "reconstruction": 78 + 60 * fall}
            terms |= {"kl": 24 - 10 * fall} if kind == "vae" else {}
            terms |= {"codebook": 1 + fall, "commitment": 0.3 + fall} if kind == "vqvae" else {}
            row = {"seed": seed, "epoch": epoch, "learning_rate": 1e-3}
            row |= {f"{part}_{name}": value for part in ("train", "validation") for name, value in terms.items()}
            if kind == "vqvae":
                row |= {"dead_codes": round(20 * fall), "running_perplexity": 210 - 100 * fall}
            rows.append(row)
    return rows


def study():
    "The tree of reports/study.json: figures of a set that is spoiled leave those of real ones, where a metric sees it."
    plain = quality(1.0)
    spoiled = {name: value - plain[name] for name, value in quality(1000.0).items()} | {"authenticity": 0.35}
    real = {name: {"mean": value, "deviation": 0.01 * value, "draws": 5} for name, value in plain.items()}
    families = {}
    for family, strengths in STRENGTHS.items():
        steps = []
        for strength in strengths:
            share = (strength / strengths[-1]) ** 2
            seen = {name: plain[name] + share * spoiled[name] * (name not in BLIND[family]) for name in plain}
            if family == "copied":
                seen["authenticity"] = plain["authenticity"] * (1 - strength)
            steps.append({"strength": strength, **seen})
        families[family] = steps
    return {"samples": 5000, "real": real, "families": families}


def experiment(name, seeds=(0,)):
    "The tree of reports/experiments/<name>.json."
    models = {model: metrics(model.partition("-")[0], len(seeds)) for model in EXPERIMENTS[name]}
    if name == "vae-without-kl":
        models["vae"]["kl"] |= {"posterior_deviation": over_seeds(0.004, len(seeds))}
        models["vae"]["sampling"]["standard_normal"] |= {
            key: over_seeds(value, len(seeds)) for key, value in {"fd_ratio": 1200.0, "digit_rate": 0.05}.items()
        }
    if name == "second-judge":  # finds the flow's samples worse than the first judge does, and the mixture's no better
        models["ae"]["sampling"]["flow"] |= {"fd_ratio": over_seeds(3.6, len(seeds))}
    return {
        "name": name,
        "question": f"What does {name} change?",
        "command": f"dvc exp run -S models.{EXPERIMENTS[name][0]}.beta=0.5",
        "settings": {f"models.{EXPERIMENTS[name][0]}.beta": 0.5},
        "seeds": list(seeds),
        "models": models,
    }


def write_results(folder: Path, params: Params, experiments: Sequence[str] = tuple(EXPERIMENTS)) -> None:
    "All files that the report reads, below `folder`/reports and `folder`/artifacts."
    reports, artifacts = folder / "reports", folder / "artifacts"
    ratios = {"noise": 2600.0, "shuffled": 2100.0, "blurred": 160.0, "one_class": 330.0, "copied": 1.0}
    floor = quality(1.0)
    write_json(
        reports / "yardstick.json",
        {
            "judge": {"test_accuracy": 0.9955},
            "floor": floor,
            "controls": {name: quality(ratio) for name, ratio in ratios.items()},
            "pca": PCA,
            "gaussian_rate": GAUSSIAN_RATE,
        },
    )
    write_json(reports / "study.json", study())
    for name in experiments:
        write_json(reports / "experiments" / f"{name}.json", experiment(name, params.seeds))
    real = strokes(100, 7)
    shown = {name: noisy(real, min(0.95, math.log10(ratio) / 3.4), 9) for name, ratio in ratios.items()}
    save_tensors(artifacts / "controls.safetensors", {"real": real, **shown})
    for place, (name, config) in enumerate(params.models.items()):
        write_json(reports / name / "metrics.json", metrics(config.kind, len(params.seeds)))
        write_csv(reports / name / "history.csv", history(config.kind, params.seeds))
        for seed in params.seeds:
            tensors = pictures(config.kind, place, seed)
            save_tensors(artifacts / name / "pictures" / f"seed-{seed}.safetensors", tensors)
