"""The configuration: the one place for every default value and every range.

Frozen dataclasses of plain values. Nothing here imports TensorFlow, so that `main.py --help` is quick.
"""

from __future__ import annotations

import dataclasses
import json
import numbers
import operator
import os
from typing import Any

from mcl_tf.constraints import (
    AnyOf,
    Boolean,
    ByteCount,
    Choice,
    FileName,
    FirstAndLast,
    Interval,
    ListOf,
    Nothing,
    Text,
)
from mcl_tf.errors import UsageError

SMALL_IMAGE = 96  # From this size on, encoders use the 7x7 stem (SimCLR, appendix B.9).
RESIZES = ("squeeze", "pad", "crop")  # of images that are not square, see `views.prepare`
ENCODERS = ("compact", "small", "resnet18", "resnet34", "resnet50")  # our own
# Those of keras.applications; resnet50 is theirs where encoder_weights is given, and ours where it is not.
APPLICATIONS = ("mobilenet_v3_small", "efficientnetv2_b0", "resnet50", "convnext_tiny")
# Where ~ is expanded.
PATHS = ("dataset", "anomaly_dataset", "encoder", "encoder_weights", "run_dir", "data_dir", "cache_dir")
_OF_SCORING = ("views", "view_area", "method", "embedding", "evidence", "shrinkage", "scoring_batch_size")
EVALUATED = (*_OF_SCORING, "pass_rate", "anomaly_dataset")  # what another evaluation of a finished run can change
# A training does not depend on these: options of the scoring that follow it, and names of the images, which are known
# by their contents. `score` and `pass_rate` decide which images are trained on.
_NOT_OF_TRAINING = (*_OF_SCORING, "dataset", "normal", "anomaly_dataset")
EXPORTS = ("saved_model", "litert", "onnx")
LOSSES = ("masked", "nt_xent")
_AREA = Interval(float, 0.01, 1.0)  # share of the area of an image
# Peak learning rate of every optimizer for 256 instances per step, used if none is given.
LEARNING_RATES = {"sgd": 0.3, "lars": 0.3, "lamb": 0.005, "adamw": 0.001}


def _field(default, constraint):
    """Create a field whose values the constraint checks."""
    return dataclasses.field(default=default, metadata={"constraint": constraint})


def _integer(default, low, high):
    return _field(default, Interval(int, low, high))


def _number(default, low, high):
    return _field(default, Interval(float, low, high))


def _choice(default, *options):
    return _field(default, Choice(*options))


def _boolean(default):
    return _field(default, Boolean())


def _text(default):
    return _field(default, Text())


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The images and which of them are normal."""

    dataset: str = _text("digits")
    normal: tuple[str, ...] = _field(("0",), ListOf(Text()))
    labelled: bool = _boolean(False)
    anomaly_dataset: str = _text("")
    image_size: int = _integer(0, 0, 1024)
    detail_size: int = _integer(0, 0, 1024)
    resize: str = _field("squeeze", Choice(*RESIZES))
    max_unreadable: float = _number(0.01, 0.0, 1.0)
    calibration_fraction: float = _number(0.1, 0.01, 0.5)
    seed: int = _integer(0, 0, 2**31 - 1)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Encoder and projection head."""

    encoder: str = _field("resnet18", AnyOf(Choice(*dict.fromkeys(ENCODERS + APPLICATIONS)), FileName(".keras")))
    encoder_weights: str = _text("")
    freeze_encoder: bool = _boolean(False)
    width: float = _number(1.0, 0.0625, 8.0)
    standardize: bool = _boolean(True)
    projection_hidden: int = _integer(2048, 1, 65536)
    projection_dim: int = _integer(128, 2, 8192)


@dataclasses.dataclass(frozen=True)
class AugmentationConfig:
    """SimCLR's augmentation of images in four rotations; a probability of 0 switches an operation off."""

    strength: float = _number(0.5, 0.0, 1.0)
    flip_probability: float = _number(0.5, 0.0, 1.0)
    crop_min_area: float = _number(0.08, 0.01, 1.0)
    jitter_probability: float = _number(0.8, 0.0, 1.0)
    grey_probability: float = _number(0.2, 0.0, 1.0)
    rotations: bool = _boolean(True)


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Contrastive loss; `beta` None means 2 with labels and 1 / temperature without.

    NT-Xent has no `alpha`, `beta` and `spa_weight`.
    """

    loss: str = _choice("masked", *LOSSES)
    alpha: float = _number(0.05, 0.0, 1000.0)
    beta: float | None = _field(None, AnyOf(Nothing(), Interval(float, 0.0, 1000.0)))
    temperature: float = _number(0.2, 0.001, 100.0)
    spa_weight: float = _number(1.0, 0.0, 1000.0)
    rotation_weight: float = _number(1.0, 0.0, 1000.0)


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Optimization; `learning_rate` holds for 256 instances (64 images) per step, None for the optimizer's own."""

    epochs: int = _integer(400, 0, 1_000_000)
    max_steps: int = _integer(0, 0, 2**31 - 1)
    batch_size: int = _integer(128, 1, 1_048_576)
    optimizer: str = _choice("sgd", *LEARNING_RATES)
    learning_rate: float | None = _field(None, AnyOf(Nothing(), Interval(float, 0.0, 1e6)))
    momentum: float = _number(0.9, 0.0, 0.9999)
    weight_decay: float = _number(1e-6, 0.0, 1.0)
    final_learning_rate: float = _number(5e-4, 0.0, 1.0)
    warmup_epochs: float = _number(0.0, 0.0, 1_000_000.0)
    warmup_steps: int = _integer(0, 0, 2**31 - 1)
    clip_norm: float = _number(0.0, 0.0, 1e9)
    decay_exclusions: bool = _boolean(False)
    ema: float = _number(0.0, 0.0, 0.999999)
    balanced_batches: bool = _boolean(False)
    precision: str = _choice("float32", "float32", "bfloat16", "float16", "float64")


@dataclasses.dataclass(frozen=True)
class ScoringConfig:
    """Gaussians and self-ensemble inference."""

    views: int = _choice(0, 0, 1, 2, 4, 8)
    view_area: float | tuple[float, ...] = _field(1.0, AnyOf(_AREA, ListOf(_AREA)))
    method: str = _choice("weighted", "weighted", "sum", "mean", "min")
    embedding: str = _choice("stages", "stages", "encoder", "projection")
    evidence: bool = _boolean(True)
    score: str = _choice("image", "image", "local", "both")
    shrinkage: float | str | None = _field(
        "ledoit_wolf", AnyOf(Choice("ledoit_wolf"), Nothing(), Interval(float, 0.0, 1.0))
    )
    pass_rate: float = _number(0.95, 0.0, 1.0)
    scoring_batch_size: int = _integer(128, 1, 65536)

    @property
    def view_areas(self) -> tuple[float, ...]:
        """All areas of `view_area`."""
        return self.view_area if isinstance(self.view_area, tuple) else (self.view_area,)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Where and how a run happens.

    None of these options changes a result by more than rounding, so that a run may be resumed with other values.
    """

    run_dir: str = _text("")
    data_dir: str = _text("")
    cache_dir: str = _text("")
    memory_limit: int | str | None = _field(None, AnyOf(Nothing(), ByteCount()))
    strategy: str = _choice("auto", "auto", "one_device", "mirrored", "multi_worker", "tpu")
    jit_compile: str = _choice("auto", "auto", "on", "off")
    loss_block_size: int = _integer(0, 0, 2**31 - 1)
    evaluate_every: int = _integer(0, 0, 1_000_000)
    resume: bool = _boolean(True)
    checkpoint_every: int = _integer(0, 0, 1_000_000)
    checkpoint_minutes: float = _number(2.0, 0.0, 1e6)
    keep_checkpoints: int = _integer(3, 1, 1000)
    worker_timeout: int = _integer(600, 10, 1_000_000)
    profile_steps: tuple[int, ...] = _field((), FirstAndLast(Interval(int, 1, 1_000_000)))


@dataclasses.dataclass(frozen=True)
class ServingConfig:
    """The exported model; none of these options changes the results of a run."""

    export: tuple[str, ...] = _field(("saved_model",), ListOf(Choice(*EXPORTS)))
    export_precision: str = _choice("float32", "float32", "float16")
    litert_precision: str = _choice("float32", "float32", "float16", "int8")
    keep_versions: int = _integer(3, 0, 1_000_000)
    serving_batch_sizes: tuple[int, ...] = _field((1, 8, 32), ListOf(Interval(int, 1, 4096)))


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that a run depends on, in groups; field names are unique across the groups.

    Raises:
      UsageError: a value is out of its range; the message names the field, its range and the value.
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
            fields = dataclasses.fields(section)
            values = {field.name: _plain(field.name, getattr(section, field.name)) for field in fields}
            for field in fields:
                check(field, values[field.name])
            object.__setattr__(self, group.name, type(section)(**values))

    def replace(self, **overrides: Any) -> Config:
        """Return a copy with some fields changed by their flat names, e.g. `replace(encoder="small", epochs=3)`.

        Raises:
          UsageError: a name is unknown or a value out of its range.
        """
        groups = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        owner = {f.name: name for name, group in groups.items() for f in dataclasses.fields(group)}
        for name, value in overrides.items():
            if name not in owner:
                raise UsageError(f"Unknown option. Possible: {', '.join(sorted(owner))}. Received: {name}")
            groups[owner[name]] = dataclasses.replace(groups[owner[name]], **{name: value})
        return Config(**groups)

    def flat(self) -> dict[str, Any]:
        """Return all values by their flat names."""
        groups = (getattr(self, group.name) for group in dataclasses.fields(self))
        return {field.name: getattr(group, field.name) for group in groups for field in dataclasses.fields(group)}

    def to_json(self) -> str:
        """Return the configuration as indented JSON, one object per group."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Config:
        """Read the output of `to_json`.

        Raises:
          UsageError: the text is not a JSON object of known groups and fields.
        """
        try:
            groups = json.loads(text)
            flat = {name: value for group in groups.values() for name, value in group.items()}
            known = {f.name: set(vars(f.default)) for f in dataclasses.fields(cls)}
            unknown = [f for name, group in groups.items() for f in group if f not in known.get(name, ())]
            if unknown:
                raise UsageError(f"options that their group does not have. Received: {', '.join(unknown)}")
        except (ValueError, AttributeError) as error:
            raise UsageError(f"This is not a configuration in JSON: {error}") from None
        return cls().replace(**flat)

    def in_force(self) -> dict[str, Any]:
        """Return all values by their flat names, with those that follow from others where none is given."""
        values = self.flat()
        values["learning_rate"] = peak_learning_rate(self.training)
        if values["beta"] is None:
            values["beta"] = 2.0 if self.data.labelled else 1.0 / self.loss.temperature
        values["views"] = values["views"] or (2 if self.model.freeze_encoder else 8)
        return values

    def differences(self, other: Config, *, of_training: bool = False) -> list[str]:
        """Return the fields in which two configurations give other results, as "name: mine, not theirs".

        Args:
          other: the other configuration.
          of_training: whether to compare only what changes the weights of a training on the same images.
        """
        ignored = {f.name for group in (RunConfig, ServingConfig) for f in dataclasses.fields(group)}
        ignored.update(_NOT_OF_TRAINING if of_training else ())
        given, others = self.flat(), other.flat()
        mine, theirs = self.in_force(), other.in_force()
        # A value that follows from another option differs with that option, which is named alone.
        return [
            f"{name}: {_text_of(mine[name])}, not {_text_of(theirs[name])}"
            for name in mine
            if name not in ignored and given[name] != others[name] and mine[name] != theirs[name]
        ]


def _text_of(value: Any) -> str:
    return "none" if value is None else repr(value)


def peak_learning_rate(config: TrainingConfig) -> float:
    """Return the configured learning rate, or the optimizer's own, for 256 instances per step."""
    return LEARNING_RATES[config.optimizer] if config.learning_rate is None else config.learning_rate


def _plain(name: str, value: Any) -> Any:
    """Return an option as the value that JSON has for it: numbers and texts of Python, tuples for lists."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    elif hasattr(value, "tolist"):
        value = value.tolist()  # a scalar or an array of NumPy
    if isinstance(value, (list, tuple)):
        items = tuple(_plain("", item) for item in value)
        # scikit-learn's `clone` expects the very object that it has passed.
        same = isinstance(value, tuple) and all(map(operator.is_, items, value))
        return value if same else items
    if isinstance(value, str):
        return os.path.expanduser(str.__str__(value)) if name in PATHS else str.__str__(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return value
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def check(field: dataclasses.Field, value: Any) -> None:
    """Check a value against the constraint of its field.

    Raises:
      UsageError: the value is not accepted; the message says what is possible and what was received.
    """
    constraint = field.metadata["constraint"]
    if not constraint.accepts(value):
        raise UsageError(f"{field.name} must be {constraint}. Received: {value!r}")
