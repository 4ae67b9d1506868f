"""Where and how a run happens; nothing here changes a figure."""

from flags.define import define
from mcl_tf.config import RunConfig

define(
    RunConfig,
    mode="`train` trains, scores the test split and exports; `score` scores files with a SavedModel: "
    "--saved_model, --images, --output.",
    run_dir="Directory of the run; by default runs/<dataset>-<normal>. Started again with the same options, a run "
    "goes on from its newest checkpoint.",
    data_dir="Directory of TensorFlow Datasets; by default its own.",
    strategy="Devices: `auto` mirrors over all GPUs, or takes the one device there is; `mirrored` also over "
    "logical CPUs.",
    evaluate_every="Epochs between evaluations for TensorBoard on a thousand test pictures; nothing is chosen by "
    "them. 0 for none.",
    checkpoint_every="Epochs between checkpoints; the last epoch always writes one.",
)
