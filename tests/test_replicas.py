"""Values of all replicas, and the gradients through them."""

import numpy as np
import tensorflow as tf

from mcl_tf.replicas import Replicas
from mcl_tf.training.distribution import make_strategy


def test_outside_of_a_strategy_there_is_one_replica():
    replicas = Replicas.current()
    value = tf.constant([[1.0, 2.0]])
    assert (int(replicas.index), replicas.count) == (0, 1)
    assert replicas.all_gather(value, axis=0) is value
    assert replicas.all_sum(value) is value


def test_two_replicas_share_values_and_gradients(two_replicas):
    """Every replica has its own loss; the gradient is that of the sum of the losses."""

    @tf.function(autograph=False)
    def run():
        replicas = Replicas.current()
        value = tf.constant([[1.0, 2.0]]) * tf.cast(replicas.index + 1, tf.float32)
        weight = tf.constant([3.0, 5.0])[replicas.index]
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(value)
            gathered, total = replicas.all_gather(value, axis=0), replicas.all_sum(value)
            from_gathered, from_total = weight * tf.reduce_sum(gathered**2), weight * tf.reduce_sum(total)
        gradients = tape.gradient(from_gathered, value), tape.gradient(from_total, value)
        return replicas.index, tf.constant(replicas.count), gathered, total, *gradients

    results = [two_replicas.experimental_local_results(value) for value in two_replicas.run(run)]
    for replica in range(2):
        index, count, gathered, total, gathered_gradient, total_gradient = (value[replica] for value in results)
        assert (int(index), int(count)) == (replica, 2)
        np.testing.assert_array_equal(gathered, [[1.0, 2.0], [2.0, 4.0]])
        np.testing.assert_array_equal(total, [[3.0, 6.0]])
        # Both losses, with the weights 3 and 5, depend on the value of this replica.
        np.testing.assert_array_equal(gathered_gradient, 2.0 * (3.0 + 5.0) * gathered[replica : replica + 1])
        np.testing.assert_array_equal(total_gradient, [[8.0, 8.0]])


def test_several_trainings_of_a_process_can_have_several_replicas():
    """Two strategies in one process would use the same keys for different collective operations, which then fail."""
    for dtype in ("float32", "float64", "float32"):
        strategy = make_strategy("mirrored")
        assert strategy.num_replicas_in_sync == 4
        total = strategy.run(
            tf.function(lambda dtype=dtype: Replicas.current().all_sum(tf.constant([1.0, 2.0], dtype)))
        )
        for value in strategy.experimental_local_results(total):
            np.testing.assert_array_equal(value, [4.0, 8.0])
