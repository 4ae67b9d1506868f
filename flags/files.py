"""Work with an exported model: scoring of image files, and another threshold."""

from absl import flags

flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "score", "threshold"],
    "`train` trains, scores the test split and exports. `score` scores image files with a SavedModel and needs "
    "--saved_model, --images and --output. `threshold` writes a version of a SavedModel with another threshold, "
    "chosen from labelled examples, and needs --saved_model, --images and --normal.",
)
flags.DEFINE_string(
    "saved_model",
    "",
    "With --mode=score or threshold: a SavedModel, or the folder of its versions, whose newest one is used. With "
    "--mode=score also a file FILE.tflite or FILE.onnx of an export.",
)
flags.DEFINE_string(
    "images",
    "",
    "With --mode=score: a folder, read at any depth, or a glob such as 'shots/**/*.png'. With --mode=threshold: a "
    "folder with one sub-folder per class.",
)
flags.DEFINE_string(
    "output", "", "With --mode=score: the file for the scores; CSV, or JSON lines if its name ends in .jsonl."
)
flags.DEFINE_string(
    "target",
    "f1",
    "With --mode=threshold: what the threshold maximizes: `f1`, `youden`, or `fpr=RATE` for the most anomalies at a "
    "share of flagged normal images of at most RATE.",
)
