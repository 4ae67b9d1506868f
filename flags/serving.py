"""The exported model, and the scoring of files with it."""

from flags.define import define
from mcl_tf.config import ServingConfig

define(
    ServingConfig,
    export_precision="Type that the SavedModel keeps the network's weights in; `float16` halves its size, and it "
    "still computes in float32.",
    keep_versions="Versions kept in saved_model/, the newest; 0 keeps all.",
    serving_batch_sizes="Batch sizes that the warm-up requests have, with commas; the server's "
    "allowed_batch_sizes.",
    saved_model="With --mode=score: a SavedModel, or the folder of its versions, whose newest is taken.",
    images="With --mode=score: a folder, with all files in it at any depth, or a glob such as 'shots/**/*.png'.",
    output="With --mode=score: the file of the scores, CSV, or JSON lines if it ends in .jsonl.",
)
