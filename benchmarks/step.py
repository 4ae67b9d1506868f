"""A training step against the bare encoder's forward and backward pass on the same views.

    python -m benchmarks.step --encoder=resnet18 --batch_size=8

Both sides alternate in one process; the ratio of their medians is printed. Everything that the step does beyond
the encoder (views, augmentation, projection head, losses, optimiser) is what the ratio leaves above 1.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

from mcl_tf.config import Config
from mcl_tf.data.pipeline import training_batches
from mcl_tf.optimizers import make_optimizer
from mcl_tf.training import build_model


def main() -> None:
    """Measures and prints one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--batch_size", type=int, default=8, help="pictures; each becomes 8 views")
    parser.add_argument("--image_size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()

    config = Config().replace(encoder=options.encoder, width=options.width)
    shape = (options.batch_size * 4, options.image_size, options.image_size, 3)
    pictures = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    model = build_model(config, options.image_size)
    model.compile(optimizer=make_optimizer(config.training, 0.01), jit_compile=False)
    batches = iter(training_batches(pictures, np.zeros(len(pictures)), options.batch_size, seed=0))
    step = tf.function(lambda: model.train_step(next(batches))["loss"], autograph=False)

    encoder = build_model(config, options.image_size).encoder
    views = tf.random.uniform((options.batch_size * 8, *shape[1:]))

    # A gradient such as a loss sends back: through batch normalisation a constant one is zero, and cheaper.
    cotangent = tf.random.normal((len(views), encoder.output_shape[-1]))

    @tf.function(autograph=False)
    def bare():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(encoder(views, training=True) * cotangent)
        # All of them leave the function: what nothing asks for would not be computed.
        return loss, tape.gradient(loss, encoder.trainable_variables)

    times = {step: [], bare: []}
    for repeat in range(options.repeats + 2):
        for side in times:
            start = time.perf_counter()
            tf.nest.flatten(side())[0].numpy()
            if repeat >= 2:  # the first calls trace and warm up
                times[side].append(time.perf_counter() - start)
    whole, encoder_alone = (statistics.median(values) for values in times.values())
    print(
        f"{options.encoder}, {options.batch_size * 8} views of {options.image_size}x{options.image_size}: step "
        f"{whole * 1000:.0f} ms, encoder alone {encoder_alone * 1000:.0f} ms, ratio {whole / encoder_alone:.3f}; "
        f"{os.cpu_count()} cores, TensorFlow {tf.__version__}"
    )


if __name__ == "__main__":
    main()
