"""params.yaml -> validated, frozen config objects.

Every stage reads the whole file through `load_params`, so a mistake anywhere stops the first stage that runs,
before any training. There are no defaults: params.yaml says everything, and a key that is not declared here is an
error.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

PARAMS_FILE = Path("params.yaml")

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1)]
Precision = Literal["float32", "bfloat16"]
ModelName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]


class ParamsError(ValueError):
    """params.yaml cannot be used; the message names each key, what was found and what is accepted."""


class _Config(BaseModel):  # what each key means stands beside it in params.yaml
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class PrepareConfig(_Config):
    validation: Annotated[int, Field(ge=1000, le=30000)]
    seed: Seed


class JudgeConfig(_Config):
    epochs: Count
    batch_size: Count
    learning_rate: Positive
    weight_decay: NonNegative
    shift: Annotated[float, Field(ge=0, le=0.3)]
    rotation: Annotated[float, Field(ge=0, le=45)]
    seed: Seed


class YardstickConfig(_Config):
    reference: Literal["test", "validation"]
    samples: Annotated[int, Field(ge=500, le=10000)]
    neighbours: Annotated[int, Field(ge=1, le=50)]
    accept: Share
    seed: Seed


class StudyConfig(_Config):
    samples: Annotated[int, Field(ge=500, le=10000)]
    seed: Seed


class TrainConfig(_Config):
    epochs: Count
    batch_size: Annotated[int, Field(ge=1, le=10000)]
    learning_rate: Positive
    weight_decay: NonNegative
    warmup: Share
    binarise: bool


class NetworkConfig(_Config):
    width: Count
    encoder_depth: Count
    decoder_depth: Count
    precision: Precision


class _Model(_Config):
    likelihood: Literal["bernoulli", "gaussian"]
    sigma: Positive | Literal["calibrated"] | None = None

    @model_validator(mode="after")
    def _sigma_belongs_to_gaussian(self) -> "_Model":
        if (self.likelihood == "gaussian") != (self.sigma is not None):
            accepted = "a number > 0 or calibrated" if self.likelihood == "gaussian" else "no such key"
            raise ValueError(f"sigma is {self.sigma}; with likelihood {self.likelihood} {accepted} is accepted")
        return self


class AEConfig(_Model):
    kind: Literal["ae"]
    dimensions: Count


class VAEConfig(_Model):
    kind: Literal["vae"]
    dimensions: Count
    beta: NonNegative


class VQVAEConfig(_Model):
    kind: Literal["vqvae"]
    grid: Annotated[int, Field(ge=1, le=28)]
    codes: Annotated[int, Field(ge=2)]
    dimensions: Count
    beta: NonNegative
    codebook: Literal["ema", "gradient"]
    decay: Share
    start: Literal["kmeans", "sample"]
    restart: NonNegative


KINDS: dict[str, type[_Model]] = {"ae": AEConfig, "vae": VAEConfig, "vqvae": VQVAEConfig}
ModelConfig = Annotated[AEConfig | VAEConfig | VQVAEConfig, Field(discriminator="kind")]


class MixtureConfig(_Config):
    codes: Count
    components: Annotated[tuple[Annotated[int, Field(ge=1, le=1000)], ...], Field(min_length=1)]
    iterations: Count
    shrinkage: NonNegative


class FlowConfig(_Config):
    transforms: Count
    width: Count
    epochs: Count
    batch_size: Count
    learning_rate: Positive


class DensityPriorConfig(_Config):
    gmm: MixtureConfig
    flow: FlowConfig


class CodePriorConfig(_Config):
    clusters: Count
    units: Count
    embedding: Count
    depth: Annotated[int, Field(ge=0)]
    epochs: Count
    batch_size: Count
    learning_rate: Positive
    weight_decay: NonNegative
    dropout: Annotated[float, Field(ge=0, lt=1)]


class PriorConfig(_Config):
    ae: DensityPriorConfig
    vae: DensityPriorConfig
    vqvae: CodePriorConfig


class EvaluateConfig(_Config):
    samples: Annotated[int, Field(ge=500, le=10000)]
    bound_images: Annotated[int, Field(ge=10, le=10000)]
    probe_images: Annotated[int, Field(ge=100)]


class PublishConfig(_Config):
    experiment: Annotated[str, Field(min_length=1)]


class Params(_Config):
    seeds: tuple[Seed, ...]
    prepare: PrepareConfig
    judge: JudgeConfig
    yardstick: YardstickConfig
    study: StudyConfig
    network: NetworkConfig
    train: TrainConfig
    models: Annotated[dict[ModelName, ModelConfig], Field(min_length=1)]
    prior: PriorConfig
    evaluate: EvaluateConfig
    publish: PublishConfig

    @model_validator(mode="after")
    def _only_bernoulli_is_binarised(self) -> "Params":
        others = [name for name, model in self.models.items() if model.likelihood != "bernoulli"]
        if self.train.binarise and others:
            raise ValueError(
                f"train.binarise is true, but models.{others[0]}.likelihood is {self.models[others[0]].likelihood}; "
                "with binarised images bernoulli is accepted"
            )
        return self

    @model_validator(mode="after")
    def _seeds_are_unique(self) -> "Params":
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds is {list(self.seeds)}; a list of one seed or more without repeats is accepted")
        return self

    def model(self, name: str) -> AEConfig | VAEConfig | VQVAEConfig:
        """The entry of one model. Raises ParamsError that lists the names when there is no such entry."""
        if name not in self.models:
            raise ParamsError(f"{PARAMS_FILE}: models.{name}: no such entry; accepted: {', '.join(self.models)}")
        return self.models[name]


def load_params(path: Path = PARAMS_FILE) -> Params:
    """The validated content of params.yaml.

    Raises ParamsError that lists every wrong key with its path, the value found and what is accepted.
    """
    try:
        # The parser that DVC uses: both must read 1e-3 as a number and refuse a repeated key.
        raw = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read ({error.strerror}); a YAML file is accepted") from error
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: is not UTF-8 ({error}); a YAML file is accepted") from error
    except YAMLError as error:
        raise ParamsError(f"{path}: is not valid YAML: {_where_and_what(error)}") from error
    try:
        # Through JSON, so that strict validation takes a YAML list for a tuple and nothing else for anything.
        text = json.dumps(raw, default=str)
    except (TypeError, ValueError) as error:
        raise ParamsError(f"{path}: {error}; texts as keys, and no part inside itself, are accepted") from error
    try:
        return Params.model_validate_json(text)
    except ValidationError as error:
        lines = _explain_all(error, raw)
        raise ParamsError("\n".join(f"{path}: {line}" for line in lines)) from error


def _where_and_what(error: YAMLError) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
    line = f"line {mark.line + 1}: " if mark else ""
    return line + " ".join(problem.split())


def _explain_all(error: ValidationError, raw: Any) -> list[str]:  # noqa: ANN401
    """A line for each wrong value; what each part of a union says of one value is joined."""
    lines: dict[str, list[str]] = {}
    for problem in error.errors(include_url=False):
        key, _, message = _explain(problem, raw).partition("; input should be ")
        lines.setdefault(key, []).append(message)
    return [key + ("; input should be " + " or ".join(said) if said[0] else "") for key, said in lines.items()]


def _explain(problem: Any, raw: Any) -> str:  # noqa: ANN401 (pydantic's error dict and parsed YAML are untyped)
    location = [str(part) for part in _without_tags(problem["loc"], raw)]
    key, found = ".".join(location) or "the file", problem["input"]
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key (found {found!r}); accepted: {_accepted_keys(location, raw)}"
    if problem["type"] == "missing":
        return f"{key}: missing key; it has to be there"
    if problem["type"].startswith("union_tag_"):
        found = found.get("kind")
        return f"{key}.kind: {'missing key' if found is None else f'found {found!r}'}; accepted: {', '.join(KINDS)}"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return f"{key}: {message}" if isinstance(found, dict) else f"{key}: found {found!r}; {message}"


def _without_tags(location: Sequence[str | int], raw: Any) -> list[str | int]:  # noqa: ANN401
    """A location without the union tags that pydantic puts between a model's name and its key."""
    kept: list[str | int] = []
    node = raw
    for position, part in enumerate(location):
        inside = isinstance(node, dict) and part in node
        if inside or (isinstance(node, list) and isinstance(part, int)):
            node = node[part]
        elif (
            position < len(location) - 1
            or (kept[:1] == ["models"] and part in KINDS)
            or part in {"[key]", "float", "constrained-float"}
            or str(part).startswith("literal[")
        ):
            continue
        kept.append(part)
    return kept


def _accepted_keys(location: list[str], raw: Any) -> str:  # noqa: ANN401
    """The keys that the section which holds the last part of a location accepts."""
    config: Any = Params
    node = raw
    for part in location[:-1]:
        node = node[part]
        if part == "models":
            continue
        fields = getattr(config, "model_fields", {})
        config = fields[part].annotation if part in fields else KINDS[node["kind"]]
    return ", ".join(config.model_fields)


def main() -> int:
    """`python -m randomz.params`: say whether params.yaml is in order."""
    try:
        load_params()
    except ParamsError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
