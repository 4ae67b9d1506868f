"""Checkpoints that are whole or not there: written aside, then renamed; read through before they are taken.

A checkpoint is a folder `step-<n>` with TensorFlow's files (which hold a checksum of every tensor) and
`facts.json`: what the caller adds, and shape and dtype of every variable.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import time

import tensorflow as tf

from mcl_tf.config import RunConfig
from mcl_tf.errors import UsageError, one_line
from mcl_tf.utils.console import say

_PREFIX, _FACTS = "variables", "facts.json"
_UNREADABLE = (tf.errors.OpError, OSError, ValueError, LookupError, TypeError, RuntimeError)


class CheckpointStore:
    """The checkpoints of one training.

    Args:
      folder: where they are kept.
      checkpoint: what they hold.
      variables: {name: variable}, everything that `checkpoint` holds, in an order that follows from the code.
      keep: how many stay; older ones are removed after a newer one is whole.
    """

    def __init__(self, folder, checkpoint: tf.train.Checkpoint, variables: dict, keep: int):
        self.folder = pathlib.Path(folder)
        self.checkpoint = checkpoint
        self.layout = {name: [list(v.shape), tf.as_dtype(v.dtype).name] for name, v in variables.items()}
        self.keep = keep

    def path(self, step: int) -> pathlib.Path:
        """The folder of the checkpoint of a step."""
        return self.folder / f"step-{step:09d}"

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, newest first."""
        found = (path.name.removeprefix("step-") for path in self.folder.glob("step-*"))
        return sorted((int(name) for name in found if name.isdigit()), reverse=True)

    def save(self, step: int, facts: dict) -> bool:
        """Writes the checkpoint of a step; one that cannot be written is said and leaves the others whole.

        Args:
          step: names the checkpoint.
          facts: plain values that are kept with it.

        Returns:
          Whether it was written, or is there already.
        """
        if self.path(step).exists():
            return True
        aside = self.folder / f"unfinished-{step}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            self.checkpoint.write(str(aside / _PREFIX))
            (aside / _FACTS).write_text(json.dumps({**facts, "step": step, "layout": self.layout}) + "\n")
            for path in (*aside.iterdir(), aside):
                _to_disk(path)  # or a power cut after the renaming could leave empty files
            os.replace(aside, self.path(step))
            _to_disk(self.folder)
        except (tf.errors.OpError, OSError) as error:
            shutil.rmtree(aside, ignore_errors=True)
            older = self.steps()
            kept = f"that of step {older[0]} stays" if older else "there is no older one"
            say(f"Warning: the checkpoint of step {step} could not be saved ({one_line(error)}); {kept}.")
            return False
        for old in self.steps()[self.keep :]:
            shutil.rmtree(self.path(old), ignore_errors=True)
        return True

    def restore(self) -> dict | None:
        """Goes back to the newest whole checkpoint; damaged ones are said and set aside.

        Returns:
          The facts of the checkpoint, `step` among them; None if there is none.

        Raises:
          UsageError: a checkpoint has other variables, or none is whole; nothing was changed.
        """
        steps = self.steps()
        if not steps and (self.folder / "checkpoint").exists():
            raise UsageError(
                f"{self.folder} holds checkpoints of other code. Choose another --run_dir. Received: "
                f"{', '.join(sorted(path.name for path in self.folder.iterdir())[:3])}"
            )
        damaged: list[int] = []
        for step in steps:
            facts = self._read(step)
            if isinstance(facts, dict):
                self._check_layout(step, facts["layout"])
                for other in damaged:  # or the next ones saved would count as older
                    os.replace(self.path(other), self.folder / f"damaged-{other}-{os.getpid()}")
                self.checkpoint.read(str(self.path(step) / _PREFIX)).assert_existing_objects_matched()
                return facts
            say(f"Warning: the checkpoint {self.path(step)} is damaged ({facts}); looking for the one before.")
            damaged.append(step)
        if damaged:
            raise UsageError(
                f"No checkpoint in {self.folder} is whole. Remove the folder to start over, or choose another "
                f"--run_dir. Received: steps {', '.join(map(str, damaged))}, all damaged"
            )
        return None

    def clean(self) -> None:
        """Removes what saves that were cut off have left."""
        for path in self.folder.glob("unfinished-*"):
            shutil.rmtree(path, ignore_errors=True)

    def _read(self, step: int) -> dict | str:
        """The facts of a whole checkpoint, or what is wrong with it; every tensor's checksum is checked."""
        try:
            facts = json.loads((self.path(step) / _FACTS).read_text())
            reader = tf.train.load_checkpoint(str(self.path(step) / _PREFIX))
            for name in reader.get_variable_to_shape_map():
                reader.get_tensor(name)
            if facts["step"] != step or not isinstance(facts["layout"], dict):
                return "its facts are those of another one"
        except _UNREADABLE as error:
            return one_line(error)
        return facts

    def _check_layout(self, step: int, layout: dict) -> None:
        for name in [*self.layout, *layout]:
            mine, theirs = (side.get(name, "no such variable") for side in (self.layout, layout))
            if mine != theirs:
                raise UsageError(
                    f"The checkpoint {self.path(step)} was written by other code or with other shapes. "
                    f"Choose another --run_dir. {name} is {mine} here. Received: {theirs}"
                )


class SavingTimes:
    """When checkpoints are due: minutes after the last one, and every few epochs if asked for.

    Not by epochs unasked, which may take seconds: four saves of the demo cost 2.5 % of its training.
    """

    def __init__(self, run: RunConfig):
        self.epochs, self.seconds = run.checkpoint_every, run.checkpoint_minutes * 60.0
        self.last = time.monotonic()

    def due(self, epochs_done: int | None) -> bool:
        """Whether to save now; `epochs_done` at the end of an epoch."""
        late = self.seconds > 0.0 and time.monotonic() - self.last >= self.seconds
        return late or (self.epochs > 0 and epochs_done is not None and epochs_done % self.epochs == 0)

    def done(self) -> None:
        """Counts the minutes anew."""
        self.last = time.monotonic()


def _to_disk(path: pathlib.Path) -> None:
    """Waits until a file or folder has reached the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
