"""Scores more pictures than one machine holds: an Apache Beam transform and its command line (extra `beam`).

    python -m mcl_tf.beam --saved_model=DIR --input='shots/**.png' --output=PREFIX

All other options are Beam's: --runner, --direct_num_workers, ... PREFIX-*.jsonl holds the scores, as
`--mode=score` writes them, PREFIX-unreadable-*.jsonl the files that could not be scored, with the reason.
"""

from __future__ import annotations

import argparse
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import json

import apache_beam as beam
import numpy as np
from apache_beam.io import fileio, filesystem
from apache_beam.ml.inference.base import KeyedModelHandler, ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions

from mcl_tf import file_scoring
from mcl_tf.errors import UsageError, one_line
from mcl_tf.export import version_folders
from mcl_tf.export.model_card import read_card

FAILED = "failed"  # tag of the dead letters


class SavedModelHandler(ModelHandler):
    """How Beam's RunInference runs the SavedModel on batches of pictures uint8 [s, s, 3].

    Beam's own handler for TensorFlow loads with Keras, which reads no SavedModel any more.

    Args:
      saved_model: its folder; every worker must reach it.
      batch_size: most pictures of one call.
    """

    def __init__(self, saved_model: str, batch_size: int = 128):
        super().__init__()
        self.saved_model = saved_model
        self.batch_size = batch_size

    def load_model(self):
        """The signature that scores."""
        return file_scoring.load_scorer(self.saved_model)

    def run_inference(self, batch, model, inference_args=None):
        """A list of pictures -> an iterable of dictionaries, as `file_scoring.rows` without the file."""
        return file_scoring.rows([""] * len(batch), file_scoring.score_batch(model, np.stack(batch)))

    def batch_elements_kwargs(self):
        """Batches of 1 to `batch_size`."""
        return {"min_batch_size": 1, "max_batch_size": self.batch_size}

    def get_metrics_namespace(self) -> str:
        """The name under which Beam counts."""
        return "mcl_tf"


class _Decode(beam.DoFn):
    """(name, bytes) -> (name, picture), or the tagged output {file, reason}."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def setup(self):
        self.decode = file_scoring.make_decoder(self.size)

    def process(self, element):
        name, content = element
        images, reasons = self.decode([content])
        if reasons[0]:
            yield beam.pvalue.TaggedOutput(FAILED, {"file": name, "reason": reasons[0]})
        else:
            yield name, images[0]


class ScoreImages(beam.PTransform):
    """Scores encoded pictures with Beam's RunInference.

    A PCollection of (name, bytes) becomes {"scores": PCollection of rows as `--mode=score` writes them, "failed":
    PCollection of {"file", "reason"}}.

    Args:
      saved_model: a SavedModel or the folder of its versions.
      batch_size: most pictures of one call of the model.

    Raises:
      UsageError: there is no SavedModel with a model card.
    """

    def __init__(self, saved_model: str, batch_size: int = 128):
        super().__init__()
        path = version_folders.find(saved_model)
        self.size = read_card(path)["image_size"]
        self.handler = KeyedModelHandler(SavedModelHandler(str(path), batch_size))

    def expand(self, pictures):
        decoded = pictures | "Decode" >> beam.ParDo(_Decode(self.size)).with_outputs(FAILED, main="pictures")
        answers = decoded.pictures | "Score" >> RunInference(self.handler)
        rows = answers | "Name" >> beam.MapTuple(lambda name, row: {**row, "file": name})
        return {"scores": rows, FAILED: decoded[FAILED]}


class _Read(beam.DoFn):
    """A matched file -> (name, bytes), or the tagged output {file, reason}."""

    def process(self, metadata):
        try:
            if metadata.size_in_bytes > file_scoring.MAX_BYTES:
                raise OSError(f"has more than {file_scoring.MAX_BYTES} bytes")
            with beam.io.filesystems.FileSystems.open(
                metadata.path, compression_type=filesystem.CompressionTypes.UNCOMPRESSED
            ) as file:
                yield metadata.path, file.read()
        except OSError as error:
            reason = f"cannot be read: {error.strerror or error}"
            yield beam.pvalue.TaggedOutput(FAILED, {"file": metadata.path, "reason": reason})


def run(options: argparse.Namespace, pipeline_options: PipelineOptions) -> None:
    """Builds and runs the pipeline of the command line."""
    if not any(match.metadata_list for match in beam.io.filesystems.FileSystems.match([options.input])):
        raise UsageError(f"--input must be a glob that matches files. Received: {options.input}")
    score = ScoreImages(options.saved_model, options.batch_size)
    with beam.Pipeline(options=pipeline_options) as pipeline:
        read = (
            pipeline
            | fileio.MatchFiles(options.input)
            | beam.Reshuffle()
            | "Read" >> beam.ParDo(_Read()).with_outputs(FAILED, main="contents")
        )
        found = read.contents | score
        failed = (read[FAILED], found[FAILED]) | beam.Flatten()
        for label, rows, prefix in (
            ("Scores", found["scores"], options.output),
            ("Unreadable", failed, f"{options.output}-unreadable"),
        ):
            text = rows | f"{label} as JSON" >> beam.Map(json.dumps)
            _ = text | f"Write {label}" >> beam.io.WriteToText(prefix, file_name_suffix=".jsonl")


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--saved_model", required=True, help="a SavedModel, or the folder of its versions")
    parser.add_argument("--input", required=True, help="a glob of picture files")
    parser.add_argument("--output", required=True, help="what the names of the written files begin with")
    parser.add_argument("--batch_size", type=int, default=128, help="most pictures of one call of the model")
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
    # Workers unpickle what they run by its module's name, which `__main__` is not on another machine.
    from mcl_tf import beam as module

    sys.exit(module.main())
