"""Self-ensemble inference and the threshold."""

from flags.define import define
from mcl_tf.config import ScoringConfig

define(
    ScoringConfig,
    views="Number of views per image at test time: 8 (rotations and flips), 4 (rotations), 2 (plain and flipped) or 1 "
    "(the image alone). 0 chooses 8, or 2 for a frozen encoder, which knows no rotations.",
    view_area="Share of the area of an image that its views show, in the centre. Less than 1 suits objects that are in "
    "the centre: a network that is trained on crops sees them at the size that it knows. With several shares, e.g. "
    "1,0.5, the embedding of a view is the mean over all of them, and scoring takes as many times as long.",
    method="How the distances of an image's views become its score: harmonic mean, sum or minimum; `mean` is "
    "the paper's name for the sum.",
    embedding="What the Gaussians are fitted to: statistics of all stages of the encoder (of a pretrained one, the "
    "last three), its output, or the projection.",
    evidence="Add the rotation evidence to the self-ensemble of distances or, with several classes, compare them by "
    "likelihood and not by distance; --noevidence gives the score of the paper.",
    score="What is scored: the image as a whole by the network, its texture at full detail (`local`, which trains no "
    "network), or the sum of both, each in units of its spread over normal images. A pretrained encoder adds "
    "the distances of its places to the local score.",
    shrinkage="Shrinkage of the covariances: automatic, a fixed intensity, or none.",
    pass_rate="Share of new normal images that the threshold passes; 0.95 needs at least 19 held-out images.",
    scoring_batch_size="Number of images scored at a time, each with all its views, in two halves.",
)
