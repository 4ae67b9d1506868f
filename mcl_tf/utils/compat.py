"""All that differs between TensorFlow 2.15 with Keras 2 and TensorFlow 2.16 to 2.21 with Keras 3.

No other module asks for a version.
"""

from __future__ import annotations

import re

import keras
import tensorflow as tf

from mcl_tf.errors import UsageError
from mcl_tf.version import check_tensorflow

check_tensorflow(tf.__version__)  # again, for builds whose package has a name of their own

KERAS_3 = not keras.__version__.startswith("2.")


def update_arguments(gradient, variable, learning_rate) -> tuple:
    """What `Optimizer.update_step` takes: Keras 3 hands the learning rate over, Keras 2 reads it itself."""
    return (gradient, variable, learning_rate) if KERAS_3 else (gradient, variable)


def slot(optimizer, slots, variable) -> tf.Variable:
    """The optimiser's own variable beside a weight; Keras 3 wraps it and keeps its index elsewhere."""
    if KERAS_3:
        return slots[optimizer._get_variable_index(variable)].value
    return slots[optimizer._index_dict[optimizer._var_key(variable)]]


def build_optimizer(optimizer, variables) -> None:
    """Makes the optimiser's variables, for a checkpoint to find; TensorFlow Addons' class is an older kind."""
    if hasattr(optimizer, "build"):
        optimizer.build(variables)
    else:
        optimizer.iterations  # noqa: B018 - makes the variable
        optimizer._create_all_weights(variables)


def write_archive(archive, path: str) -> None:
    """Writes a `tf.keras.export.ExportArchive`, without the text that Keras 3 prints unasked."""
    archive.write_out(path, **({"verbose": False} if KERAS_3 else {}))


def exclude_from_decay(optimizer, variables) -> None:
    """Leaves variables out of an optimiser's own weight decay; TensorFlow Addons' class goes by their names."""
    if hasattr(optimizer, "exclude_from_weight_decay") and callable(optimizer.exclude_from_weight_decay):
        optimizer.exclude_from_weight_decay(var_list=variables)
    else:
        optimizer.exclude_from_weight_decay = [re.escape(variable.name) + "$" for variable in variables]


def lamb(learning_rate, weight_decay: float):
    """LAMB from Keras where it has it, else from TensorFlow Addons.

    Raises:
      UsageError: neither has it.
    """
    if hasattr(tf.keras.optimizers, "Lamb"):
        return tf.keras.optimizers.Lamb(learning_rate, weight_decay=weight_decay)
    try:
        import tensorflow_addons as tfa
    except ImportError:
        raise UsageError(
            "--optimizer=lamb needs Keras 3.5 or newer, or TensorFlow Addons: pip install 'mcl_tf[addons]'. "
            f"Received: Keras {keras.__version__}"
        ) from None
    return tfa.optimizers.LAMB(learning_rate, weight_decay=weight_decay)
