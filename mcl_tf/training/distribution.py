"""Distribution strategies: one device, the GPUs of a machine, several machines, TPUs."""

from __future__ import annotations

import functools
import json
import os

import tensorflow as tf

from mcl_tf.errors import UsageError, one_line

START_TIMEOUT = 600  # seconds that workers wait for each other at the start
_HEARTBEAT_TIMEOUT = 20  # seconds without a heartbeat after which a worker counts as lost


def make_strategy(name: str) -> tf.distribute.Strategy:
    """Create the distribution strategy.

    One device gets TensorFlow's default strategy, because `OneDeviceStrategy` makes a training step of the small
    encoder on two CPU cores half as slow again.

    Args:
      name: `auto` (all GPUs, or the only device), `one_device`, `mirrored`, `multi_worker` or `tpu`.

    Raises:
      UsageError: the cluster of `multi_worker` or `tpu` is not described or not available, or the caller is within the
        scope of another strategy than the one that the name means.
    """
    if tf.distribute.has_strategy():
        return _strategy_of_scope(name)
    if name == "multi_worker":
        return _multi_worker(os.environ.get("TF_CONFIG", ""))
    if name == "tpu":
        return _tpu()
    gpus = tf.config.list_logical_devices("GPU")
    if name == "mirrored" or (name == "auto" and len(gpus) > 1):
        # Without a GPU, the logical CPUs are the replicas.
        devices = gpus or tf.config.list_logical_devices("CPU")
        return _mirrored(tuple(device.name for device in devices))
    return tf.distribute.get_strategy()


def _strategy_of_scope(name: str) -> tf.distribute.Strategy:
    """Return the strategy whose scope the caller is in; TensorFlow allows no other one there."""
    strategy = tf.distribute.get_strategy()
    if name == "auto" or (name == "one_device" and strategy.num_replicas_in_sync == 1):
        return strategy
    raise UsageError(
        f"strategy must be auto within the scope of another strategy. Received: {name} within a "
        f"{type(strategy).__name__} of {strategy.num_replicas_in_sync} replicas"
    )


@functools.lru_cache  # two strategies would number their collective operations alike, which then fail
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    return tf.distribute.MirroredStrategy(list(devices))


@functools.lru_cache(maxsize=1)  # the collectives of a process can be configured once
def _multi_worker(description: str) -> tf.distribute.Strategy:
    cluster = check_cluster(description)
    # Private, because TensorFlow has no public way to set how long workers wait for each other at the start and when a
    # lost one is noticed. The strategy keeps a service that is already configured.
    from tensorflow.python.eager import context

    jobs = [
        context.coordination_config_pb2.CoordinatedJob(name=job, num_tasks=len(addresses))
        for job, addresses in cluster.items()
        if job in ("chief", "worker")
    ]
    leader = "/job:chief/replica:0/task:0" if "chief" in cluster else "/job:worker/replica:0/task:0"
    try:
        context.context().configure_coordination_service(
            service_type="standalone",
            service_leader=leader,
            cluster_register_timeout_in_ms=START_TIMEOUT * 1000,
            heartbeat_timeout_in_ms=_HEARTBEAT_TIMEOUT * 1000,
            coordinated_jobs=jobs,
        )
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        raise UsageError(f"The workers of TF_CONFIG could not connect: {one_line(error)}") from None


def check_cluster(description: str) -> dict[str, list[str]]:
    """Check that a TF_CONFIG names the workers and which of them this process is.

    Args:
      description: the content of the environment variable.

    Returns:
      The cluster, {job: addresses}.

    Raises:
      UsageError: it does not; the message gives an example.
    """
    example = '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
    wrong = f"strategy multi_worker reads TF_CONFIG, for example {example}. Received: "
    if not description:
        raise UsageError(f"{wrong}no TF_CONFIG")
    try:
        config = json.loads(description)
    except ValueError as error:
        raise UsageError(f"{wrong}{description[:100]}, which is not JSON ({error})") from None
    cluster = config.get("cluster") if isinstance(config, dict) else None
    if not isinstance(cluster, dict) or not set(cluster) & {"worker", "chief"}:
        raise UsageError(f"{wrong}no cluster of workers in {description[:200]}")
    for job, addresses in cluster.items():
        if not isinstance(addresses, list) or not all(isinstance(a, str) and ":" in a for a in addresses):
            raise UsageError(f"{wrong}{addresses!r} for the job {job}, which is no list of host:port")
    task = config.get("task")
    if not isinstance(task, dict) or "type" not in task or "index" not in task:
        raise UsageError(f"{wrong}no task of type and index in {description[:200]}")
    count = len(cluster.get(task["type"], ())) if isinstance(task["type"], str) else 0
    if task["type"] not in ("worker", "chief") or str(task["index"]) not in map(str, range(count)):
        raise UsageError(f"{wrong}the task {task['type']} {task['index']}, which the cluster does not have")
    return cluster


def _tpu() -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver()
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except Exception as error:  # noqa: BLE001 - without a TPU, every layer fails in its own way
        reason = one_line(error)
        raise UsageError(f"strategy tpu found no TPU ({reason}). Possible without one: auto, mirrored") from None


def workers(strategy: tf.distribute.Strategy) -> int:
    """Return the number of processes that train together."""
    resolver = strategy.cluster_resolver
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) or resolver is None:
        return 1
    cluster = resolver.cluster_spec().as_dict()
    return max(1, len(cluster.get("chief", ())) + len(cluster.get("worker", ())))


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Return whether this process writes the results: the chief, the first worker if there is none, or the only one."""
    if workers(strategy) == 1:
        return True
    resolver = strategy.cluster_resolver
    if "chief" in resolver.cluster_spec().as_dict():
        return resolver.task_type == "chief"
    return resolver.task_id == 0


def local_replicas(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """Return the index of the first replica of this process, and the number of its replicas."""
    count = strategy.num_replicas_in_sync // workers(strategy)
    if workers(strategy) == 1:
        return 0, count
    resolver = strategy.cluster_resolver
    before = resolver.task_id
    if resolver.task_type == "worker":
        before += len(resolver.cluster_spec().as_dict().get("chief", ()))
    return before * count, count


def any_worker(strategy: tf.distribute.Strategy):
    """Return a function that ORs a flag over all workers."""
    if workers(strategy) == 1:
        return bool

    @tf.function(autograph=False)
    def count(flag):
        context = tf.distribute.get_replica_context
        return strategy.run(lambda: context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(flag)))

    return lambda flag: float(strategy.experimental_local_results(count(tf.constant(float(flag))))[0]) > 0.0
