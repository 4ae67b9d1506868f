"""Where and how a run happens; none of these options changes a result by more than rounding."""

from flags.define import define
from mcl_tf.config import RunConfig

define(
    RunConfig,
    run_dir="Directory of the run; runs/<dataset>-<normal> by default. The same command resumes the run from its "
    "newest checkpoint.",
    data_dir="Directory of TensorFlow Datasets; its own default if empty.",
    cache_dir="Directory of decoded images that exceed --memory_limit; by default mcl_tf in $XDG_CACHE_HOME, or in "
    "~/.cache where that is not set. Later runs on the same images read them there; what is no longer needed may be "
    "removed.",
    memory_limit="Memory that the images may take while they are held and trained on; by default half of the free "
    "memory. Beyond it, they are decoded once into a file in --cache_dir.",
    strategy="Devices: `auto` uses all GPUs, or the only device; `mirrored` also uses logical CPUs; `multi_worker` "
    "joins the machines of TF_CONFIG; `tpu` uses the available TPUs.",
    jit_compile="Compile the training step with XLA; `auto` does so on a single GPU.",
    loss_block_size="Number of anchors (views) per block of the loss. Blocks need less memory and are computed again "
    "in the backward pass; results stay the same. 0 computes all at once.",
    evaluate_every="Epochs between evaluations on a thousand test images for TensorBoard; they influence nothing. "
    "0 for none.",
    resume="Resume where an earlier start stopped. Training does so by default, and --noresume refuses a run "
    "directory with checkpoints. --mode=score adds to an existing --output only with --resume.",
    checkpoint_every="Epochs between checkpoints, in addition to those by time; 0 for none. The last epoch always "
    "writes one.",
    checkpoint_minutes="Minutes between checkpoints, also within an epoch; 0 for none.",
    keep_checkpoints="Number of checkpoints to keep.",
    worker_timeout="Seconds without a step after which one of several workers gives up; must exceed the time of an "
    "evaluation.",
    profile_steps="First and last optimizer step, counted from 1, that TensorBoard's profiler records; none if empty.",
)
