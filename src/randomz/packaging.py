"""A trained model as one folder that reconstructs and samples: weights, priors, params and this loader.

MLflow finds `_load_pyfunc` by name (its format `python_function`), so nothing is pickled and torch is imported only
where the model is loaded.
"""

import json
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

CONFIG = "config.json"
WEIGHTS = "weights.safetensors"
PRIORS = "priors.safetensors"
REQUIREMENTS = (
    "torch", "numpy", "pydantic", "ruamel.yaml", "safetensors", "jaxtyping", "scikit-learn", "zuko",
)  # fmt: skip


class Decoded:
    """Images -> what the model makes of them; or, with a sampler, of random z.

    `predict(images)` reconstructs. `predict(images, {"sampler": "gmm", "seed": 0})` gives as many samples as there are
    images, whatever these show; the samplers are the priors that the model was measured with.
    """

    def __init__(self, model: Any, priors: Mapping[str, Any]) -> None:  # noqa: ANN401 (to name it would import torch)
        self.model = model.eval()
        self.priors = {name: prior.eval() for name, prior in priors.items()}

    def predict(
        self, images: Float32[np.ndarray, "N 28 28"], params: Mapping[str, Any] | None = None
    ) -> Float32[np.ndarray, "N 28 28"]:
        """Pixels in [0, 1]. Raises ValueError for a sampler that the model has not."""
        import torch  # noqa: PLC0415

        asked = {"sampler": "", "seed": 0, **(params or {})}
        with torch.inference_mode():
            if asked["sampler"]:
                codes = self._draw(asked["sampler"], len(images), int(asked["seed"]))
            else:
                codes = self.model.encode(torch.as_tensor(np.asarray(images, np.float32))[:, None])
            decoded: np.ndarray = self.model.decode(codes)[:, 0].numpy()
        return decoded

    def _draw(self, sampler: str, count: int, seed: int) -> Any:  # noqa: ANN401
        from randomz.seeding import generator  # noqa: PLC0415

        if sampler not in self.priors:
            raise ValueError(f"sampler is {sampler!r}; accepted: {', '.join(self.priors)}, or '' to reconstruct")
        return self.priors[sampler].sample(count, generator("packaged sample", seed))


def package(folder: Path, config: Mapping[str, Any], weights: Path, priors: Path) -> None:
    """Write the folder that `_load_pyfunc` reads; `config` holds the name `model`, and `params`."""
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    shutil.copyfile(weights, folder / WEIGHTS)
    shutil.copyfile(priors, folder / PRIORS)


def requirements() -> list[str]:
    """The packages that the loader needs, at the versions at hand; without a build's suffix such as +cpu."""
    return [f"{name}=={version(name).split('+')[0]}" for name in REQUIREMENTS]


def _load_pyfunc(path: str) -> Decoded:
    import torch  # noqa: PLC0415

    from randomz.checkpoint import load_tensors  # noqa: PLC0415
    from randomz.params import Params  # noqa: PLC0415
    from randomz.priors import build_priors, load_priors  # noqa: PLC0415
    from randomz.trained import load_model  # noqa: PLC0415

    content = json.loads((Path(path) / CONFIG).read_text(encoding="utf-8"))
    name, device = content["model"], torch.device("cpu")
    params = Params.model_validate_json(json.dumps(content["params"]))
    model = load_model(params, name, Path(path) / WEIGHTS, device)
    priors = build_priors(params, name, model, seed=0)
    load_priors(priors, load_tensors(Path(path) / PRIORS), device)
    return Decoded(model, priors)
