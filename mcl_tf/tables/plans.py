"""What a table consists of: its rows, and the run behind every row and seed. Nothing here imports TensorFlow."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any

import numpy as np

from mcl_tf.config import Config
from mcl_tf.errors import UsageError
from mcl_tf.run_record import short_name

EACH = "each"  # as the only name in `normal`: every class by itself


@dataclasses.dataclass(frozen=True)
class TableOptions:
    """The options of a table, beside those of its runs.

    Attributes:
      seeds: the seeds of every row; none for the seed of the configuration alone.
      splits: the number of random splits into known and unknown classes; 0 for a row per class.
      known_classes: the number of known classes of a split.
      baselines: whether to add simple methods.
      ablate: whether to train without parts of the method, too, see `ABLATION`.

    Raises:
      UsageError: a value is not possible.
    """

    seeds: tuple[int, ...] = ()
    splits: int = 0
    known_classes: int = 0
    baselines: bool = False
    ablate: bool = False

    def __post_init__(self):
        try:
            seeds = tuple(int(seed) for seed in self.seeds)
        except ValueError:
            raise UsageError(f"seeds must be integers. Received: {','.join(map(str, self.seeds))}") from None
        if len(set(seeds)) < len(seeds):
            raise UsageError(f"seeds must differ from each other. Received: {','.join(map(str, seeds))}")
        for seed in seeds:
            Config().replace(seed=seed)  # refuses what is no seed
        object.__setattr__(self, "seeds", seeds)
        if bool(self.splits) != bool(self.known_classes) or min(self.splits, self.known_classes) < 0:
            raise UsageError(
                "Splits need splits, their number, and known_classes, the number of normal classes of each. "
                f"Received: splits {self.splits}, known_classes {self.known_classes}"
            )


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
      name: its name.
      normal: names of the normal classes.
      folder: the folder of its runs, within that of the table.
      variant: name of the variant of the training; "" outside of an ablation.
      overrides: the options of this variant, as pairs of name and value.
    """

    name: str
    normal: tuple[str, ...]
    folder: str
    variant: str = ""
    overrides: tuple[tuple[str, Any], ...] = ()

    @property
    def title(self) -> str:
        """Its name, after that of its variant."""
        return f"{self.variant}, {self.name}" if self.variant else self.name


# The variants of an ablation: name, folder and options.
ABLATION: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("CCM", "ccm", {"spa_weight": 0.0}),
    ("CCM + SPA", "ccm-spa", {}),
    ("NT-Xent", "nt-xent", {"loss": "nt_xent"}),
    ("no rotations", "no-rotations", {"rotations": False}),
)


def is_table(config: Config, options: TableOptions) -> bool:
    """Return whether a table is asked for, and not a single run.

    Raises:
      UsageError: the options contradict each other.
    """
    each = EACH in config.data.normal
    if each and len(config.data.normal) > 1:
        raise UsageError(f"normal must be {EACH} alone or classes. Received: {','.join(config.data.normal)}")
    if each and options.splits:
        raise UsageError(f"Splits choose the normal classes themselves. Received: normal {EACH} with splits")
    if each and config.data.labelled:
        raise UsageError(f"labelled needs several normal classes in a run. Received: normal {EACH}, which has one")
    if options.ablate:
        _check_ablation(config, options)
    if (each or options.splits or options.ablate) and config.run.strategy == "multi_worker":
        raise UsageError("A table runs on one machine. Received: strategy multi_worker")
    return bool(each or options.splits or options.ablate)


def _check_ablation(config: Config, options: TableOptions) -> None:
    """Refuse options that an ablation contradicts, or that leave nothing to compare."""
    given = config.flat()
    if config.model.freeze_encoder or config.scoring.score != "image":
        received = "freeze_encoder" if config.model.freeze_encoder else f"score {config.scoring.score}"
        raise UsageError(f"An ablation compares trained networks by the score image. Received: {received}")
    if config.scoring.views not in (0, 8):
        raise UsageError(f"An ablation scores with 8 views, and with 1 and 4 of them. Received: views {given['views']}")
    for name in ("loss", "rotations"):
        if given[name] != Config().flat()[name]:
            raise UsageError(f"An ablation sets loss and rotations itself. Received: {name} {given[name]}")
    if not config.loss.spa_weight:
        raise UsageError("An ablation leaves out the attraction itself. Received: spa_weight 0")
    if options.baselines:
        raise UsageError("Baselines do not depend on the training that an ablation varies. Received: both")


def make_rows(config: Config, options: TableOptions, class_names, trainable) -> list[Row]:
    """Return the rows of a table.

    Args:
      config: the configuration.
      options: those of the table.
      class_names: names of all classes.
      trainable: numbers of the classes that have training images.

    Raises:
      UsageError: there are not enough classes, or not as many different splits.
    """
    names = [class_names[number] for number in trainable]
    if options.splits:
        rows = _splits(config, options, names)
    elif options.ablate and config.data.normal != (EACH,):
        rows = [Row("+".join(config.data.normal), config.data.normal, "")]
    else:
        rows = [Row(name, (name,), _folder(name)) for name in names]
    if not options.ablate:
        return rows
    return [
        dataclasses.replace(row, folder=os.path.join(folder, row.folder), variant=name, overrides=tuple(own.items()))
        for name, folder, own in ABLATION
        for row in rows
    ]


def _splits(config: Config, options: TableOptions, names: list[str]) -> list[Row]:
    """Return the rows of random splits of the classes with these names."""
    known, count = options.known_classes, len(names)
    if known >= count:
        raise UsageError(f"known_classes must be smaller than the number of classes, {count}. Received: {known}")
    if options.splits > math.comb(count, known):
        raise UsageError(
            f"{known} of {count} classes give {math.comb(count, known)} different splits. Received: {options.splits}"
        )
    rng = np.random.default_rng([config.data.seed, *b"known classes"])
    chosen: dict[tuple[int, ...], None] = {}  # in the order of drawing, so that more splits add rows at the end
    while len(chosen) < options.splits:
        chosen[tuple(sorted(rng.choice(count, known, replace=False).tolist()))] = None
    splits = [tuple(names[number] for number in numbers) for numbers in chosen]
    return [Row(f"{i}: {'+'.join(normal)}", normal, f"split-{i}") for i, normal in enumerate(splits)]


def run_config(config: Config, row: Row, seed: int) -> Config:
    """Return the configuration of one run.

    Args:
      config: that of the table, with its run directory.
      row: the row.
      seed: the seed.
    """
    directory = os.path.join(config.run.run_dir, row.folder, f"seed-{seed}")
    return config.replace(normal=row.normal, seed=seed, run_dir=directory, **dict(row.overrides))


def _folder(name: str) -> str:
    """Return the name of the folder of a class, which differs from its name where that is no name of a folder."""
    name = short_name(name.replace("%", "%25").replace("/", "%2F"))
    return name.replace(".", "%2E") if not name.strip(".") else name
