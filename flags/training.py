"""Augmentation and optimization."""

from flags.define import define
from mcl_tf.config import LEARNING_RATES, AugmentationConfig, TrainingConfig

define(
    AugmentationConfig,
    strength="Strength of the colour jitter: brightness, contrast and saturation vary by 0.8 times this value, hue "
    "by 0.2 times this value of the colour circle.",
    flip_probability="Probability of a flip.",
    crop_min_area="Smallest area of a random crop as a share of the image's.",
    jitter_probability="Probability of colour jitter.",
    grey_probability="Probability of greyscale.",
    rotations="Train on every image in four rotations, as four instances. Without them, there is no rotation "
    "classifier and no rotation evidence; the learning rate for a batch of images stays the same.",
)
define(
    TrainingConfig,
    epochs="Number of passes over the training images; 0 scores with an untrained network.",
    max_steps="Maximum number of training steps, in whole epochs or a shortened first one; 0 for no limit.",
    batch_size="Number of images per global batch, before rotation; each becomes 8 views.",
    optimizer="Optimizer: momentum SGD, or LARS, LAMB and AdamW for large batches.",
    learning_rate="Peak learning rate for 256 instances (64 images) per step, scaled with the batch; by default the "
    f"optimizer's own ({', '.join(f'{name} {rate:g}' for name, rate in LEARNING_RATES.items())}).",
    momentum="Momentum of sgd (Nesterov's) and lars (classic).",
    weight_decay="L2 penalty on the weights (sgd, lars) or decoupled decay (lamb, adamw).",
    final_learning_rate="Learning rate at the last step as a share of the peak.",
    warmup_epochs="Number of epochs over which the learning rate rises from 0 to its peak; 0 for none.",
    warmup_steps="Smallest number of optimizer steps of this rise.",
    clip_norm="Maximum global norm of the gradient of the whole batch; larger gradients are scaled down. 0 for no "
    "limit.",
    decay_exclusions="Exclude biases and batch normalization from the weight decay.",
    ema="Decay of a moving average of the weights, which is then used for scoring; 0 for none.",
    balanced_batches="Draw every class equally often into each batch, so that instances find partners.",
    precision="Arithmetic of the network. `bfloat16` and `float16` are mixed with float32 weights, losses and batch "
    "normalization; `float64` is for checks.",
)
