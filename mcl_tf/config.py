"""The configuration: the one place for every default value and every range.

Frozen dataclasses of plain values; nothing here imports TensorFlow, so that `main.py --help` is quick.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from mcl_tf.errors import UsageError

SMALL_PICTURE = 96  # From this size on encoders use the 7x7 stem (SimCLR, appendix B.9).
# Peak learning rates of the optimisers for 256 instances a step, where none is asked for.
LEARNING_RATES = {"sgd": 0.3, "lars": 0.3, "lamb": 0.005, "adamw": 0.001}


def _number(default, low, high):
    """A numeric field with an inclusive range."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high})


def _choice(default, *options):
    """A field that takes one of the options."""
    return dataclasses.field(default=default, metadata={"options": options})


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which pictures there are and which of them are normal."""

    dataset: str = "digits"
    normal: tuple[str, ...] = ("0",)
    labelled: bool = False
    anomaly_dataset: str = ""
    image_size: int = _number(0, 0, 1024)
    calibration_fraction: float = _number(0.1, 0.01, 0.5)
    seed: int = _number(0, 0, 2**31 - 1)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Encoder and projection head."""

    encoder: str = _choice("resnet18", "small", "resnet18", "resnet34", "resnet50")
    width: float = _number(1.0, 0.0625, 8.0)
    projection_hidden: int = _number(2048, 1, 65536)
    projection_dim: int = _number(128, 2, 8192)


@dataclasses.dataclass(frozen=True)
class AugmentationConfig:
    """SimCLR's augmentation; a probability of 0 switches a step off."""

    strength: float = _number(0.5, 0.0, 1.0)
    flip_probability: float = _number(0.5, 0.0, 1.0)
    crop_min_area: float = _number(0.08, 0.01, 1.0)
    jitter_probability: float = _number(0.8, 0.0, 1.0)
    grey_probability: float = _number(0.2, 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Masked contrastive loss; `beta` None means 2 with labels and 1 / temperature without."""

    alpha: float = _number(0.05, 0.0, 1000.0)
    beta: float | None = _number(None, 0.0, 1000.0)
    temperature: float = _number(0.2, 0.001, 100.0)
    spa_weight: float = _number(1.0, 0.0, 1000.0)


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Optimisation. `learning_rate` is for 256 instances (64 pictures) a step; None means the optimiser's own."""

    epochs: int = _number(400, 0, 1_000_000)
    max_steps: int = _number(0, 0, 2**31 - 1)
    batch_size: int = _number(128, 1, 1_048_576)
    optimizer: str = _choice("sgd", *LEARNING_RATES)
    learning_rate: float | None = _number(None, 0.0, 1e6)
    momentum: float = _number(0.9, 0.0, 0.9999)
    weight_decay: float = _number(1e-6, 0.0, 1.0)
    final_learning_rate: float = _number(5e-4, 0.0, 1.0)
    warmup_epochs: float = _number(0.0, 0.0, 1_000_000.0)
    clip_norm: float = _number(0.0, 0.0, 1e9)
    decay_exclusions: bool = False
    ema: float = _number(0.0, 0.0, 0.999999)
    balanced_batches: bool = False
    precision: str = _choice("float32", "float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class ScoringConfig:
    """Gaussians and self-ensemble inference."""

    views: int = _choice(8, 1, 4, 8)
    method: str = _choice("weighted", "weighted", "mean", "min")
    embedding: str = _choice("encoder", "encoder", "projection")
    shrinkage: float | str | None = dataclasses.field(
        default="ledoit_wolf", metadata={"low": 0.0, "high": 1.0, "options": ("ledoit_wolf", None)}
    )
    pass_rate: float = _number(0.95, 0.0, 1.0)
    scoring_batch_size: int = _number(128, 1, 65536)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Where and how a run happens; nothing here changes a figure by more than rounding, so a run may be resumed
    with other values."""

    mode: str = _choice("train", "train", "score")
    run_dir: str = ""
    data_dir: str = ""
    strategy: str = _choice("auto", "auto", "one_device", "mirrored", "multi_worker", "tpu")
    jit_compile: str = _choice("auto", "auto", "on", "off")
    loss_block_size: int = _number(0, 0, 2**31 - 1)
    evaluate_every: int = _number(0, 0, 1_000_000)
    resume: bool | None = None
    checkpoint_every: int = _number(0, 0, 1_000_000)
    checkpoint_minutes: float = _number(2.0, 0.0, 1e6)
    keep_checkpoints: int = _number(3, 1, 1000)
    worker_timeout: int = _number(600, 10, 1_000_000)


@dataclasses.dataclass(frozen=True)
class ServingConfig:
    """The exported model, and the scoring of files with it; nothing here changes a run's figures."""

    export_precision: str = _choice("float32", "float32", "float16")
    keep_versions: int = _number(3, 0, 1_000_000)
    serving_batch_sizes: tuple[int, ...] = _number((1, 8, 32), 1, 4096)
    saved_model: str = ""
    images: str = ""
    output: str = ""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything a run depends on, in groups; field names are unique across the groups.

    Raises:
      UsageError: a value is out of its range; the message names field, range and value.
    """

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    loss: LossConfig = LossConfig()
    training: TrainingConfig = TrainingConfig()
    scoring: ScoringConfig = ScoringConfig()
    run: RunConfig = RunConfig()
    serving: ServingConfig = ServingConfig()

    def __post_init__(self):
        for group in dataclasses.fields(self):
            section = getattr(self, group.name)
            for field in dataclasses.fields(section):
                check(field, getattr(section, field.name))

    def replace(self, **overrides: Any) -> Config:
        """A copy with some fields changed by their flat names, e.g. `replace(encoder="small", epochs=3)`."""
        groups = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        owner = {f.name: name for name, group in groups.items() for f in dataclasses.fields(group)}
        for name, value in overrides.items():
            if name not in owner:
                raise UsageError(f"Unknown option. Possible: {', '.join(sorted(owner))}. Received: {name}")
            value = tuple(value) if isinstance(value, list) else value
            groups[owner[name]] = dataclasses.replace(groups[owner[name]], **{name: value})
        return Config(**groups)

    def flat(self) -> dict[str, Any]:
        """All fields by their flat names."""
        return {k: v for group in dataclasses.asdict(self).values() for k, v in group.items()}

    def to_json(self) -> str:
        """The configuration as indented JSON, one object a group."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Config:
        """Reads what `to_json` wrote.

        Raises:
          UsageError: the text is no JSON object of known groups and fields.
        """
        try:
            groups = json.loads(text)
            flat = {name: value for group in groups.values() for name, value in group.items()}
            known = {f.name: set(vars(f.default)) for f in dataclasses.fields(cls)}
            strange = [f for name, group in groups.items() for f in group if f not in known.get(name, ())]
            if strange:
                raise UsageError(f"options that their group does not have. Received: {', '.join(strange)}")
        except (ValueError, AttributeError) as error:
            raise UsageError(f"This is not a configuration in JSON: {error}") from None
        return cls().replace(**flat)

    def differences(self, other: Config) -> list[str]:
        """Fields in which two configurations would give other figures, as `name: mine, not theirs`."""
        mine, theirs = self.flat(), other.flat()
        runtime = {f.name for group in (RunConfig, ServingConfig) for f in dataclasses.fields(group)}
        return [
            f"{name}: {mine[name]!r}, not {theirs[name]!r}"
            for name in mine
            if mine[name] != theirs[name] and name not in runtime
        ]


def value_type(field: dataclasses.Field) -> type:
    """The scalar type of a field: bool, int, float or str (tuples and unions by their first member)."""
    first = str(field.type).removeprefix("tuple[").split(" ")[0].split(",")[0]
    return {"bool": bool, "int": int, "float": float}.get(first, str)


def describe_range(field: dataclasses.Field) -> str:
    """What a field may hold, in words for messages and help."""
    meta = field.metadata
    options = [str(option).lower() if option is None else str(option) for option in meta.get("options", ())]
    if "low" in meta:
        noun = "an integer" if value_type(field) is int else "a number"
        noun = "integers" if isinstance(field.default, tuple) else noun
        options.append(f"{noun} from {meta['low']:g} to {meta['high']:g}")
    if len(options) > 1:
        return ", ".join(options[:-1]) + " or " + options[-1]
    return "".join(options)


def check(field: dataclasses.Field, value: Any) -> None:
    """Refuses a value outside the field's range.

    Raises:
      UsageError: says what is possible and what was received.
    """
    meta, kind = field.metadata, value_type(field)
    if value is None or isinstance(value, str):
        valid = value in meta["options"] if "options" in meta else value == field.default or kind is type(value)
        valid = valid and not isinstance(field.default, tuple)
    elif isinstance(value, tuple) or isinstance(field.default, tuple):
        valid = isinstance(value, tuple) and isinstance(field.default, tuple) and bool(value)
        valid = valid and all(type(v) is kind and bool(v) for v in value)
        valid = valid and ("low" not in meta or all(meta["low"] <= v <= meta["high"] for v in value))
    elif kind is bool or isinstance(value, bool):
        valid = kind is bool and isinstance(value, bool)
    elif not isinstance(value, (int, float)) or (kind is int and not isinstance(value, int)):
        valid = False
    else:
        valid = value in meta.get("options", ()) or ("low" in meta and meta["low"] <= value <= meta["high"])
    if not valid:
        possible = describe_range(field) or f"a {field.type}"
        raise UsageError(f"{field.name} must be {possible}. Received: {value!r}")
