"""Work with a finished run or an exported model: another evaluation, scores of files, another threshold, drift."""

from absl import flags

flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "evaluate", "score", "threshold", "drift"],
    "`train` trains, scores the test split and exports. `evaluate` repeats that for a finished run, without training, "
    "with other --views, --method, --embedding, --evidence, --shrinkage, --pass_rate or --anomaly_dataset, and needs "
    "--run_dir. `score` scores image files with a SavedModel and needs "
    "--saved_model, --images and --output. `threshold` writes a version of a SavedModel with another threshold, "
    "chosen from labelled examples, and needs --saved_model, --images and --normal. `drift` tests whether scores are "
    "still those of normal images, and needs --scores.",
)
flags.DEFINE_string(
    "saved_model",
    "",
    "With --mode=score, threshold or drift: a SavedModel, or the folder of its versions, whose newest one is used. "
    "Without one, drift knows no rate that the threshold promises. With --mode=score also a file FILE.tflite or "
    "FILE.onnx of an export.",
)
flags.DEFINE_string(
    "images",
    "",
    "With --mode=score: a folder, read at any depth, or a glob such as 'shots/**/*.png'. With --mode=threshold: a "
    "folder with one sub-folder per class.",
)
flags.DEFINE_string(
    "output",
    "",
    "With --mode=score: the file for the scores; CSV, or JSON lines if its name ends in .jsonl. With --mode=drift: a "
    "file for a picture, FILE.png, or for the result, FILE.json; none if empty.",
)
flags.DEFINE_string(
    "heatmaps",
    "",
    "With --mode=score: a folder for pictures of all images under their heat maps, which show where they differ from "
    "normal images. None if empty.",
)
flags.DEFINE_string(
    "target",
    "f1",
    "With --mode=threshold: what the threshold maximizes: `f1`, `youden`, or `fpr=RATE` for the most anomalies at a "
    "share of flagged normal images of at most RATE.",
)
flags.DEFINE_string("scores", "", "With --mode=drift: the --output of --mode=score.")
flags.DEFINE_enum(
    "by",
    "day",
    ["day", "hour", "none"],
    "With --mode=drift: which images are tested together: those of a day or an hour, by the time of their "
    "modification, or all of them.",
)
