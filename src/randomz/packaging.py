"""A trained model as one folder that reconstructs images: weights, config and this loader, which MLflow calls.

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
REQUIREMENTS = ("torch", "numpy", "pydantic", "ruamel.yaml", "safetensors", "jaxtyping")


class Reconstructor:
    """Images -> what the model makes of them: encode, then decode."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401 (a LatentModel; to name it would import torch)
        self.model = model.eval()

    def predict(
        self,
        images: Float32[np.ndarray, "N 28 28"],
        params: Mapping[str, Any] | None = None,  # noqa: ARG002 (MLflow passes it)
    ) -> Float32[np.ndarray, "N 28 28"]:
        """Reconstructions, pixels in [0, 1] like the images."""
        import torch  # noqa: PLC0415

        with torch.inference_mode():
            x = torch.as_tensor(np.asarray(images, np.float32))[:, None]
            decoded: np.ndarray = self.model.decode(self.model.encode(x))[:, 0].numpy()
        return decoded


def package(folder: Path, config: Mapping[str, Any], weights: Path) -> None:
    """Write the folder that `_load_pyfunc` reads; `config` holds the sections `model` and `network`."""
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    shutil.copyfile(weights, folder / WEIGHTS)


def requirements() -> list[str]:
    """The packages that the loader needs, at the versions at hand; without a build's suffix such as +cpu."""
    return [f"{name}=={version(name).split('+')[0]}" for name in REQUIREMENTS]


def _load_pyfunc(path: str) -> Reconstructor:
    from pydantic import TypeAdapter  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415

    from randomz.models import load_kind  # noqa: PLC0415
    from randomz.params import ModelConfig, NetworkConfig  # noqa: PLC0415

    content = json.loads((Path(path) / CONFIG).read_text(encoding="utf-8"))
    config: Any = TypeAdapter(ModelConfig).validate_json(json.dumps(content["model"]))
    network = NetworkConfig.model_validate_json(json.dumps(content["network"]))
    model = load_kind(config.kind).build(config, network)
    model.load_state_dict(load_file(Path(path) / WEIGHTS))
    return Reconstructor(model)
