"""Atomic checkpoints: written to a temporary folder, renamed when complete, verified before they are restored.

A checkpoint is a folder `step-<n>` with TensorFlow's files, which hold a checksum of every tensor, and `metadata.json`:
the values of the caller, and shape and dtype of every variable.
"""

from __future__ import annotations

import json
import logging
import os
import pathlib
import shutil
import time
import uuid

import tensorflow as tf

from mcl_tf.config import RunConfig
from mcl_tf.errors import UsageError, one_line
from mcl_tf.utils.atomic import atomic_folder, remove_temporary

_PREFIX, _METADATA = "variables", "metadata.json"
_READ_ERRORS = (tf.errors.OpError, OSError, ValueError, LookupError, TypeError, RuntimeError)
_logger = logging.getLogger(__name__)


class CheckpointStore:
    """The checkpoints of one training.

    Args:
      folder: where they are kept.
      checkpoint: the objects to save and restore.
      variables: {name: variable}, everything that `checkpoint` holds, in an order that follows from the code.
      keep: the number of checkpoints to keep; older ones are removed once a newer one is complete.
    """

    def __init__(self, folder, checkpoint: tf.train.Checkpoint, variables: dict, keep: int):
        self.folder = pathlib.Path(folder)
        self.checkpoint = checkpoint
        self.layout = {name: [list(v.shape), tf.as_dtype(v.dtype).name] for name, v in variables.items()}
        self.keep = keep

    def path(self, step: int) -> pathlib.Path:
        """Return the folder of the checkpoint of a step."""
        return self.folder / f"step-{step:09d}"

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, newest first."""
        names = (path.name.removeprefix("step-") for path in self.folder.glob("step-*"))
        return sorted((int(name) for name in names if name.isdigit()), reverse=True)

    def save(self, step: int, metadata: dict) -> bool:
        """Save a checkpoint; if it cannot be written, log a warning and keep the older ones.

        Args:
          step: names the checkpoint.
          metadata: plain values to save with it.

        Returns:
          Whether the checkpoint exists now.
        """
        if self.path(step).exists():
            return True
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_folder(self.path(step)) as folder:
                self.checkpoint.write(str(folder / _PREFIX))
                contents = {**metadata, "step": step, "layout": self.layout}
                (folder / _METADATA).write_text(json.dumps(contents) + "\n")
        except (tf.errors.OpError, OSError) as error:
            older = self.steps()
            kept = f"that of step {older[0]} is kept" if older else "there is no older one"
            _logger.warning("The checkpoint of step %d could not be saved (%s); %s.", step, one_line(error), kept)
            return False
        for old in self.steps()[self.keep :]:
            shutil.rmtree(self.path(old), ignore_errors=True)
        return True

    def restore(self) -> dict | None:
        """Restore the newest complete checkpoint; log a warning about damaged ones and set them aside.

        Returns:
          The metadata of the checkpoint, including `step`; None if there is no checkpoint.

        Raises:
          UsageError: a checkpoint has other variables, or all are damaged; nothing was changed.
        """
        steps = self.steps()
        if not steps and (self.folder / "checkpoint").exists():
            raise UsageError(
                f"{self.folder} holds checkpoints of other code. Choose another run_dir. Received: "
                f"{', '.join(sorted(path.name for path in self.folder.iterdir())[:3])}"
            )
        damaged: list[int] = []
        for step in steps:
            metadata = self._read(step)
            if isinstance(metadata, dict):
                self._check_layout(step, metadata["layout"])
                for other in damaged:  # or checkpoints saved later would count as older
                    os.replace(self.path(other), self.folder / f"damaged-{other}-{uuid.uuid4().hex[:8]}")
                self.checkpoint.read(str(self.path(step) / _PREFIX)).assert_existing_objects_matched()
                return metadata
            _logger.warning("The checkpoint %s is damaged (%s); trying the one before.", self.path(step), metadata)
            damaged.append(step)
        if damaged:
            raise UsageError(
                f"No checkpoint in {self.folder} is complete. Remove the folder to start over, or choose another "
                f"run_dir. Received: steps {', '.join(map(str, damaged))}, all damaged"
            )
        return None

    def clean(self) -> None:
        """Remove what interrupted saves have left behind."""
        remove_temporary(self.folder, "step-*")

    def _read(self, step: int) -> dict | str:
        """Verify every tensor of a checkpoint; return its metadata, or what is wrong with it."""
        try:
            metadata = json.loads((self.path(step) / _METADATA).read_text())
            reader = tf.train.load_checkpoint(str(self.path(step) / _PREFIX))
            for name in reader.get_variable_to_shape_map():
                reader.get_tensor(name)
            if metadata["step"] != step or not isinstance(metadata["layout"], dict):
                return "its metadata belongs to another checkpoint"
        except _READ_ERRORS as error:
            return one_line(error)
        return metadata

    def _check_layout(self, step: int, layout: dict) -> None:
        for name in [*self.layout, *layout]:
            mine, theirs = (side.get(name, "no such variable") for side in (self.layout, layout))
            if mine != theirs:
                raise UsageError(
                    f"The checkpoint {self.path(step)} was written by other code or with other shapes. "
                    f"Choose another run_dir. {name} is {mine} here. Received: {theirs}"
                )


def newest_metadata(folder: pathlib.Path) -> dict | None:
    """Return the metadata of the newest checkpoint that has any; its tensors are not verified."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            return json.loads((path / _METADATA).read_text())
        except (OSError, ValueError):
            continue
    return None


class CheckpointSchedule:
    """Decides when checkpoints are due: some minutes after the last one and, if asked for, every few epochs.

    Time is the default, because epochs may take seconds: four checkpoints of the demo cost 2.5 % of its training.

    Args:
      run: `checkpoint_every` and `checkpoint_minutes`.
    """

    def __init__(self, run: RunConfig):
        self.epochs, self.seconds = run.checkpoint_every, run.checkpoint_minutes * 60.0
        self.last = time.monotonic()

    def is_due(self, finished_epochs: int | None) -> bool:
        """Return whether to save now.

        Args:
          finished_epochs: the number of finished epochs at the end of one; None within an epoch.
        """
        late = self.seconds > 0.0 and time.monotonic() - self.last >= self.seconds
        return late or (self.epochs > 0 and finished_epochs is not None and finished_epochs % self.epochs == 0)

    def restart(self) -> None:
        """Restart the clock after a checkpoint."""
        self.last = time.monotonic()
