"""What a run is known by, its options and its images, so that two runs are never mixed in one run directory.

The command line keeps its options in `config.json`. Every training keeps its options and a fingerprint of its images
beside its checkpoints. Nothing here imports TensorFlow, so that other options are refused at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib

import numpy as np

from mcl_tf.config import Config
from mcl_tf.data import paths
from mcl_tf.errors import UsageError
from mcl_tf.utils.atomic import try_folder

FOLDERS = ("checkpoints", "checkpoints-restart")  # of the first and the second start of a training
CONFIG, RECORD = "config.json", "training.json"
_LONGEST_NAME = 150  # bytes of a default run directory's name; file systems allow 255


def with_run_directory(config: Config) -> Config:
    """Return the configuration with `run_dir` set."""
    if config.run.run_dir:
        return config
    name = config.data.dataset
    name = paths.folder_name(name) if paths.is_folder(name) else name
    parts = f"{name}-{'+'.join(config.data.normal)}".split("/")
    return config.replace(run_dir=os.path.join("runs", *map(short_name, parts)))


def short_name(name: str) -> str:
    """Return a name of a folder; what is beyond the limits of file systems becomes a number that follows from it."""
    contents = name.encode("utf-8", "surrogateescape")
    if len(contents) <= _LONGEST_NAME:
        return name
    return f"{contents[:_LONGEST_NAME].decode('utf-8', 'ignore')}-{hashlib.sha256(contents).hexdigest()[:8]}"


def holds_run(config: Config) -> bool:
    """Return whether the run directory holds a run of the command line, which has the same options.

    Raises:
      UsageError: it holds a run with other options.
    """
    directory = pathlib.Path(config.run.run_dir)
    path = directory / CONFIG
    if not path.exists():
        return False
    try:
        differences = Config.from_json(path.read_text()).differences(config)
    except (OSError, UsageError) as error:
        raise UsageError(f"{path} cannot be read, choose another run_dir: {error}") from None
    _refuse_options(directory, differences)
    return True


@dataclasses.dataclass(frozen=True)
class TrainingRecord:
    """The options and images of a training.

    Attributes:
      config: the configuration, with the sizes of the images.
      count: the number of images, including those held out from training.
      images: fingerprint of these images with their labels, whatever their order.
      trained: fingerprint of those that are trained on.
      files: {option: fingerprint} of the files that the encoder is read from.
    """

    config: Config
    count: int
    images: str
    trained: str
    files: dict[str, str]

    @classmethod
    def create(cls, config: Config, images, labels, held_out, network_size: int) -> TrainingRecord:
        """Describe a training.

        Args:
          config: the configuration.
          images: uint8 [n, s, s, 3].
          labels: int [n].
          held_out: bool [n], which images are not trained on.
          network_size: side of the network's input in pixels.
        """
        hashes = _hashes(images, labels)
        model = config.model
        files = {"encoder": model.encoder, "encoder_weights": model.encoder_weights}
        files = {name: os.path.expanduser(value) for name, value in files.items()}
        detail_size = 0 if config.scoring.score == "image" else images.shape[1]
        return cls(
            config.replace(image_size=network_size, detail_size=detail_size),
            len(images),
            _joined(hashes),
            _joined(hashes[~held_out]),
            {name: file_hash(path) for name, path in files.items() if os.path.isfile(path)},
        )

    def check(self, run_dir) -> None:
        """Check that a run directory holds no checkpoints, or those of the same training.

        Raises:
          UsageError: it holds those of another training; the message names the difference.
        """
        run_dir = pathlib.Path(run_dir)
        path = run_dir / FOLDERS[0] / RECORD
        if not path.exists():
            if (run_dir / FOLDERS[1]).exists() or any((run_dir / FOLDERS[0]).glob("step-*")):
                raise UsageError(
                    f"{run_dir} holds checkpoints whose options and images are unknown. Choose another run_dir. "
                    f"Received: no {path}"
                )
            return
        try:
            contents = json.loads(path.read_text())
            theirs = TrainingRecord(**{**contents, "config": Config.from_json(json.dumps(contents["config"]))})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path} cannot be read, choose another run_dir: {error}") from None
        _refuse_options(run_dir, theirs.config.differences(self.config, of_training=True))
        difference = theirs.difference_of_inputs(self)
        if difference:
            raise UsageError(f"{run_dir} holds a training {difference}. Choose another run_dir")

    def difference_of_inputs(self, other: TrainingRecord) -> str:
        """Return in which images or files of the encoder another training differs; "" if in none."""
        if self.count != other.count:
            return f"on other images: {self.count} images then, {other.count} now"
        if self.images != other.images:
            return f"on other images: {self.count} then and now, with other contents or labels"
        if self.trained != other.trained:
            return "on the same images in another order, which held out others"
        changed = [name for name in {**self.files, **other.files} if self.files.get(name) != other.files.get(name)]
        return f"with another file as {' and '.join(changed)}" if changed else ""

    def write(self, run_dir) -> None:
        """Write the record of a training that begins; one that is there stays.

        Raises:
          UsageError: it cannot be written, or another training has just begun here.
        """
        path = pathlib.Path(run_dir) / FOLDERS[0] / RECORD
        contents = {**vars(self), "config": json.loads(self.config.to_json())}
        try:
            try_folder(path.parent)  # a resumed training needs it, too
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "x") as file:  # of two trainings that begin at once, one is refused
                file.write(json.dumps(contents, indent=2) + "\n")
        except FileExistsError:
            self.check(run_dir)
        except OSError as error:
            raise UsageError(f"run_dir {run_dir} cannot be written: {error.strerror}") from None


def _refuse_options(directory: pathlib.Path, differences: list[str]) -> None:
    if differences:
        raise UsageError(
            f"{directory} holds a run with another configuration ({'; '.join(differences)}). "
            "Choose another run_dir, or the same options to resume it"
        )


def _hashes(images, labels) -> np.ndarray:
    """Return one number uint64 [n] per image and label."""
    digests = (
        hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8, salt=int(label).to_bytes(8, "little")).digest()
        for image, label in zip(images, labels, strict=True)
    )
    return np.frombuffer(b"".join(digests), "<u8")


def _joined(hashes) -> str:
    """Return the fingerprint of a set of images, which does not depend on their order."""
    return f"{int(np.sum(hashes, dtype=np.uint64)):016x}"  # modulo 2^64


def file_hash(*files) -> str:
    """Return a fingerprint of the contents of files, in this order.

    Raises:
      OSError: one of them cannot be read.
    """
    digest = hashlib.blake2b(digest_size=8)
    for path in files:
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()
