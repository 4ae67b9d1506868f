"""All that the command line can say; the only place that knows absl.flags."""

from flags.build import (
    MODULES,
    config_from_flags,
    drift_arguments,
    evaluation_arguments,
    refuse_other_modes,
    score_files_arguments,
    table_options,
    threshold_arguments,
)

__all__ = [
    "MODULES",
    "config_from_flags",
    "drift_arguments",
    "evaluation_arguments",
    "refuse_other_modes",
    "score_files_arguments",
    "table_options",
    "threshold_arguments",
]
