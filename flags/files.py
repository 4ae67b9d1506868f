"""Scoring of image files with an exported model."""

from absl import flags

flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "score"],
    "`train` trains, scores the test split and exports; `score` scores image files with a SavedModel and needs "
    "--saved_model, --images and --output.",
)
flags.DEFINE_string(
    "saved_model", "", "With --mode=score: a SavedModel, or the folder of its versions, whose newest one is used."
)
flags.DEFINE_string("images", "", "With --mode=score: a folder, read at any depth, or a glob such as 'shots/**/*.png'.")
flags.DEFINE_string(
    "output", "", "With --mode=score: the file for the scores; CSV, or JSON lines if its name ends in .jsonl."
)
