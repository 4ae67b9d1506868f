"""Where and how a run happens; nothing here changes a figure by more than rounding."""

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
    "logical CPUs; `multi_worker` joins the machines of TF_CONFIG; `tpu` takes the TPUs there are.",
    jit_compile="Compile the training step with XLA: `auto` does on a single GPU.",
    loss_block_size="Anchors (views) a block of the loss, whose matrices are computed again in the backward pass: "
    "less memory for the same figures. 0 for all at once.",
    evaluate_every="Epochs between evaluations for TensorBoard on a thousand test pictures; nothing is chosen by "
    "them. 0 for none.",
    resume="Training goes on from the newest checkpoint, and --noresume refuses a run directory that has one; "
    "--mode=score goes on with an --output that is there, whose files are not scored again, only with --resume.",
    checkpoint_every="Epochs between checkpoints, besides those by the clock; 0 for none. The last epoch always "
    "writes one.",
    checkpoint_minutes="Minutes after a checkpoint when the next is written, within an epoch too; 0 for never.",
    keep_checkpoints="Checkpoints that are kept.",
    worker_timeout="Seconds without a step after which a worker of several leaves; more than an evaluation takes.",
)
