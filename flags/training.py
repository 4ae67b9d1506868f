"""Augmentation and optimisation."""

from flags.define import define
from mcl_tf.config import LEARNING_RATES, AugmentationConfig, TrainingConfig

define(
    AugmentationConfig,
    strength="Strength of the colour jitter: brightness, contrast and saturation vary by 0.8 times this, hue by "
    "0.2 times this of the colour circle.",
    flip_probability="Probability of a flip.",
    crop_min_area="Smallest area of a random crop as a share of the picture's.",
    jitter_probability="Probability of colour jitter.",
    grey_probability="Probability of greyscale.",
)
define(
    TrainingConfig,
    epochs="Passes over the training pictures; 0 scores with an untrained network.",
    max_steps="Train at most so many steps, in whole epochs or a shortened first one; 0 for no limit.",
    batch_size="Pictures of the global batch, before rotation; each becomes 8 views.",
    optimizer="Optimiser: momentum SGD, or for large batches LARS, LAMB or AdamW.",
    learning_rate="Peak learning rate for 256 instances (64 pictures) a step, grows with the batch; unset, it is "
    f"the optimiser's own ({', '.join(f'{name} {rate:g}' for name, rate in LEARNING_RATES.items())}).",
    momentum="Momentum of sgd (Nesterov's) and lars (classic).",
    weight_decay="L2 penalty on the weights (sgd, lars), or decoupled decay (lamb, adamw).",
    final_learning_rate="Learning rate at the last step as a share of the peak.",
    warmup_epochs="Epochs over which the learning rate rises from 0 to its peak; 0 for none.",
    clip_norm="Largest global norm of the gradient of the whole batch; longer ones are shortened. 0 for no limit.",
    decay_exclusions="Leave biases and batch normalisation out of the weight decay.",
    ema="Decay of a moving average of the weights, which then does the scoring; 0 for none.",
    balanced_batches="Draw every class equally often into each batch, so that instances find partners.",
    precision="Arithmetic of the network, mixed with float32 weights; losses, batch normalisation and Gaussians "
    "are always float32.",
)
