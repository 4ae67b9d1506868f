"""Self-ensemble inference and the threshold."""

from flags.define import define
from mcl_tf.config import ScoringConfig

define(
    ScoringConfig,
    views="Number of views per image at test time: 8 (rotations and flips), 4 (rotations) or 1 (the image alone).",
    method="How the distances of an image's views become its score: harmonic mean, sum or minimum; `mean` is "
    "the paper's name for the sum.",
    embedding="What the Gaussians are fitted to: the output of the encoder or the projection.",
    shrinkage="Shrinkage of the covariances: automatic, a fixed intensity, or none.",
    pass_rate="Share of new normal images that the threshold passes; 0.95 needs at least 19 held-out images.",
    scoring_batch_size="Number of images scored at a time, each with all its views, in two halves.",
)
