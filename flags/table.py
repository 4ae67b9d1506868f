"""Tables: many runs with one command."""

from absl import flags

from mcl_tf.tables.plans import TableOptions

_DEFAULTS = TableOptions()

flags.DEFINE_list(
    "seeds",
    [str(seed) for seed in _DEFAULTS.seeds],
    "With --normal=each, --splits or --ablate: comma-separated seeds, with each of which every row is run; "
    "by default that of --seed.",
)
flags.DEFINE_integer(
    "splits",
    _DEFAULTS.splits,
    "Number of random splits into --known_classes normal classes and unknown ones, for a table of them. --seed draws "
    "the splits.",
    lower_bound=0,
)
flags.DEFINE_integer(
    "known_classes", _DEFAULTS.known_classes, "With --splits: number of normal classes.", lower_bound=0
)
flags.DEFINE_bool(
    "baselines",
    _DEFAULTS.baselines,
    "With --normal=each or --splits: add nearest neighbours, a one-class SVM and an isolation forest to the table, on "
    "pixels and on the embedding of the untrained encoder.",
)
flags.DEFINE_bool(
    "ablate",
    _DEFAULTS.ablate,
    "Write a table of what the parts of the method are worth: CCM alone, CCM with SPA, NT-Xent, and CCM with SPA "
    "without rotations are trained, and scored with 1, 4 and 8 views and every --method. With --normal=each or "
    "--splits, it has the means over their rows.",
)
