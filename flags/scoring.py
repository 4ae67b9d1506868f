"""Self-ensemble inference and the threshold."""

from flags.define import define
from mcl_tf.config import ScoringConfig

define(
    ScoringConfig,
    views="Views of a picture at test time: 8 (rotations and flips), 4 (rotations), 1 (the picture alone).",
    method="How a picture's distances become a score: harmonic mean, sum or minimum over its views.",
    embedding="What the Gaussians are fitted to: the encoder's output or the projection.",
    shrinkage="Shrinkage of the covariances: automatic, a fixed intensity, or none.",
    pass_rate="Share of the held-out normals that the threshold lets pass.",
    scoring_batch_size="Pictures scored at a time, each with all its views, in two halves.",
)
