"""Scores images on many machines: an Apache Beam transform and its command line (extra `beam`).

    python -m mcl_tf.beam --saved_model=DIR --input='shots/**.png' --output=PREFIX

All other options are those of Beam: --runner, --direct_num_workers, ... The scores go to PREFIX-*.jsonl, in the format
of `mcl_tf.score_files` without `image_state` and `model`; files that could not be scored go to
PREFIX-unreadable-*.jsonl, with the reason.
"""

from __future__ import annotations

import os

if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import argparse
import json
import re
import sys

import apache_beam as beam
import numpy as np
from apache_beam.io import fileio, filesystem
from apache_beam.ml.inference.base import KeyedModelHandler, ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions

from mcl_tf import file_scoring
from mcl_tf.data import image_files, listing
from mcl_tf.errors import UsageError, one_line
from mcl_tf.export import version_folders

_SUFFIX = ".jsonl"
FAILED = "failed"  # tag of the output for images that could not be scored


class SavedModelHandler(ModelHandler):
    """Runs the SavedModel on batches of images uint8 [s, s, 3] for Beam's RunInference.

    Beam's own handler for TensorFlow loads models with Keras, which no longer reads SavedModels.

    Args:
      saved_model: its folder, which every worker must reach.
      batch_size: maximum number of images per call.
    """

    def __init__(self, saved_model: str, batch_size: int = 128):
        super().__init__()
        self.saved_model = saved_model
        self.batch_size = batch_size

    def load_model(self):
        """Load the signature that scores."""
        return file_scoring.load_scorer(self.saved_model)

    def run_inference(self, batch, model, inference_args=None):
        """Score a list of images; return rows as `file_scoring.make_rows` does, without file names."""
        return file_scoring.make_rows([""] * len(batch), file_scoring.score_batch(model, np.stack(batch)))

    def batch_elements_kwargs(self):
        """Return the limits of the batch size."""
        return {"min_batch_size": 1, "max_batch_size": self.batch_size}

    def get_metrics_namespace(self) -> str:
        """Return the name for Beam's metrics."""
        return "mcl_tf"


class _Decode(beam.DoFn):
    """Maps (name, bytes) to (name, image), or to the tagged output {file, reason}."""

    def __init__(self, size, resize):
        super().__init__()
        self.size, self.resize = size, resize

    def setup(self):
        self.decode = image_files.make_decoder(self.size, self.resize)

    def process(self, element):
        name, content = element
        images, reasons = self.decode([content])
        if reasons[0]:
            yield beam.pvalue.TaggedOutput(FAILED, {"file": name, "reason": reasons[0]})
        else:
            yield name, images[0]


class ScoreImages(beam.PTransform):
    """Scores encoded images with Beam's RunInference.

    It maps a PCollection of (name, bytes) to {"scores": PCollection of rows as `mcl_tf.score_files` writes them,
    "failed": PCollection of {"file", "reason"}}.

    Args:
      saved_model: a SavedModel or the folder of its versions.
      batch_size: maximum number of images per call of the model.

    Raises:
      UsageError: there is no SavedModel with a model card.
    """

    def __init__(self, saved_model: str, batch_size: int = 128):
        super().__init__()
        path = version_folders.find(saved_model)
        self.prepared = file_scoring.size_and_resize(path)
        self.handler = KeyedModelHandler(SavedModelHandler(str(path), batch_size))

    def expand(self, images):
        """Build the transform."""
        decoded = images | "Decode" >> beam.ParDo(_Decode(*self.prepared)).with_outputs(FAILED, main="images")
        outputs = decoded.images | "Score" >> RunInference(self.handler)
        rows = outputs | "Name" >> beam.MapTuple(lambda name, row: {**row, "file": name})
        return {"scores": rows, FAILED: decoded[FAILED]}


def _is_wanted(metadata, base: str) -> bool:
    """Return whether a matched file is none of the housekeeping below the fixed part of a glob."""
    return not any(map(listing.is_housekeeping, os.path.relpath(metadata.path, base).split(os.sep)))


class _Read(beam.DoFn):
    """Maps a matched file to (name, bytes), or to the tagged output {file, reason}."""

    def process(self, metadata):
        try:
            if metadata.size_in_bytes > image_files.MAX_BYTES:
                raise OSError(f"has more than {image_files.MAX_BYTES} bytes")
            with beam.io.filesystems.FileSystems.open(
                metadata.path, compression_type=filesystem.CompressionTypes.UNCOMPRESSED
            ) as file:
                yield metadata.path, file.read()
        except OSError as error:
            reason = f"cannot be read: {error.strerror or error}"
            yield beam.pvalue.TaggedOutput(FAILED, {"file": metadata.path, "reason": reason})


def run(options: argparse.Namespace, pipeline_options: PipelineOptions) -> None:
    """Build and run the pipeline of the command line."""
    if not any(match.metadata_list for match in beam.io.filesystems.FileSystems.match([options.input])):
        raise UsageError(f"--input must be a glob that matches files. Received: {options.input}")
    prefixes = {"Scores": options.output, "Unreadable": f"{options.output}-unreadable"}
    _refuse_existing(prefixes.values())
    score = ScoreImages(options.saved_model, options.batch_size)
    base = os.path.dirname(re.split(r"[*?\[]", options.input)[0])  # names that the user has typed are wanted
    with beam.Pipeline(options=pipeline_options) as pipeline:
        read = (
            pipeline
            | fileio.MatchFiles(options.input)
            | "Leave out" >> beam.Filter(_is_wanted, base)
            | beam.Reshuffle()
            | "Read" >> beam.ParDo(_Read()).with_outputs(FAILED, main="contents")
        )
        results = read.contents | score
        failed = (read[FAILED], results[FAILED]) | beam.Flatten()
        for label, rows in (("Scores", results["scores"]), ("Unreadable", failed)):
            text = rows | f"{label} as JSON" >> beam.Map(json.dumps)
            _ = text | f"Write {label}" >> beam.io.WriteToText(prefixes[label], file_name_suffix=_SUFFIX)


def _refuse_existing(prefixes) -> None:
    globs = [f"{prefix}-*-of-*{_SUFFIX}" for prefix in prefixes]
    found = [found.path for match in beam.io.filesystems.FileSystems.match(globs) for found in match.metadata_list]
    if found:
        raise UsageError(f"--output must be a prefix without scores. Received: {min(found)} exists")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    path = os.path.expanduser
    parser.add_argument("--saved_model", type=path, required=True, help="a SavedModel, or the folder of its versions")
    parser.add_argument("--input", type=path, required=True, help="a glob of image files")
    parser.add_argument("--output", type=path, required=True, help="prefix of the names of the written files")
    parser.add_argument("--batch_size", type=int, default=128, help="maximum number of images per call of the model")
    options, rest = parser.parse_known_args(arguments)
    try:
        if options.batch_size < 1:
            raise UsageError(f"--batch_size must be an integer from 1 up. Received: {options.batch_size}")
        run(options, PipelineOptions(rest))
    except UsageError as error:
        print(one_line(error, None), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    # Workers unpickle functions by the name of their module, which is not `__main__` on another machine.
    from mcl_tf import beam as module

    sys.exit(module.main())
