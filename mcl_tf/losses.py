"""The masked contrastive loss as pure functions of tensors.

An instance is an image in one rotation; N instances with two views each form a batch. An anchor is one view of one
instance. Everything is computed in float32, or in float64 if the projections are float64.

Reference: Cho, Seol, Lee, "Masked Contrastive Learning for Anomaly Detection", IJCAI 2021 (arXiv:2105.08793),
sections 3.1 (class-conditional mask, CCM) and 3.2 (stochastic positive attraction, SPA).
"""

from __future__ import annotations

import tensorflow as tf

from mcl_tf.utils.stateless_random import uniform

MIN_SIMILARITY = 1e-7  # similarities are clipped from below, as in the authors' code
# exp() of at most this value stays finite in float32 when 1e8 terms are summed; larger exponents are shifted.
_SAFE_EXPONENT = 60.0
_TINY = 1e-30  # replaces an empty sum, whose logarithm must stay finite
_EXCLUDED = -1e12  # factor of pairs that do not count: exp() of it times any similarity is 0


def class_conditional_mask(labels, rotations, *, alpha, beta, temperature, anchors=None, dtype=tf.float32):
    """Return the factors of the pairwise similarities in the denominator (section 3.1).

    Args:
      labels: int [N], class of every instance.
      rotations: int [N], rotation of every instance, 0 to 3.
      alpha: float, factor of two instances with the same class and rotation.
      beta: float, factor of two instances with the same class and different rotations.
      temperature: float; two instances of different classes, and an instance with itself, have 1 / temperature.
      anchors: int [n], the rows to return; all N by default.
      dtype: dtype of the result.

    Returns:
      float [N, N], or [n, N] with `anchors`.
    """
    labels, rotations = tf.convert_to_tensor(labels), tf.convert_to_tensor(rotations)
    rows = tf.range(tf.size(labels)) if anchors is None else anchors
    same_class = tf.gather(labels, rows)[:, None] == labels[None, :]
    same_rotation = tf.gather(rotations, rows)[:, None] == rotations[None, :]
    itself = rows[:, None] == tf.range(tf.size(labels))[None, :]
    within = tf.where(same_rotation, tf.constant(alpha, dtype), tf.constant(beta, dtype))
    return tf.where(same_class & ~itself, within, tf.constant(1.0 / temperature, dtype))


def ccm_loss(projections, labels, rotations, *, alpha, beta, temperature):
    """Compute the contrastive loss with the class-conditional mask (section 3.1), the mean over all 2N anchors.

    Args:
      projections: float [2, N, D], the two views, not normalized.
      labels: int [N].
      rotations: int [N], 0 to 3.
      alpha: see `class_conditional_mask`.
      beta: see `class_conditional_mask`.
      temperature: see `class_conditional_mask`.

    Returns:
      float32 scalar.
    """
    no_partners = tf.fill([tf.shape(projections)[1]], -1)
    mask = {"alpha": alpha, "beta": beta, "temperature": temperature}
    return contrastive_losses(projections, labels, rotations, no_partners, **mask)[0]


def spa_loss(projections, labels, rotations, partners, *, alpha, beta, temperature):
    """Compute the stochastic positive attraction (section 3.2), the mean over the anchors that have a partner.

    Args:
      projections: float [2, N, D], the two views, not normalized.
      labels: int [N].
      rotations: int [N], 0 to 3.
      partners: int [N], the instance that each one is attracted to, -1 for none; see `sample_partners`.
      alpha: see `class_conditional_mask`.
      beta: see `class_conditional_mask`.
      temperature: see `class_conditional_mask`.

    Returns:
      float32 scalar, 0 if no instance has a partner.
    """
    mask = {"alpha": alpha, "beta": beta, "temperature": temperature}
    return contrastive_losses(projections, labels, rotations, partners, **mask)[1]


def contrastive_losses(
    projections, labels, rotations, partners, *, alpha, beta, temperature, anchors=None, per_anchor=None
):
    """Compute CCM and SPA from one pass over the similarities; `ccm_loss` and `spa_loss` are its two results.

    A replica passes the projections of all replicas and its own rows as `anchors`. The sum of the results over all
    replicas is the loss of the global batch.

    Args:
      projections: float [2, N, D], the two views, not normalized.
      labels: int [N].
      rotations: int [N], 0 to 3.
      partners: int [N], the instance that each one is attracted to, -1 for none; see `sample_partners`.
      alpha: see `class_conditional_mask`.
      beta: see `class_conditional_mask`.
      temperature: see `class_conditional_mask`.
      anchors: int [n], the instances to use as anchors; all N by default.
      per_anchor: a function with the signature of `anchor_losses`, which is the default.

    Returns:
      (ccm, spa), float32 scalars: the sum over `anchors`, divided by the number of anchors among all N instances.
    """
    per_anchor = per_anchor or anchor_losses
    mask = {"alpha": alpha, "beta": beta, "temperature": temperature}
    ccm, spa = per_anchor(normalize(projections), labels, rotations, partners, **mask, anchors=anchors)
    ccm = tf.reduce_sum(ccm) / tf.cast(2 * tf.size(labels), ccm.dtype)
    with_partner = 2.0 * tf.reduce_sum(tf.cast(tf.convert_to_tensor(partners) >= 0, spa.dtype))
    return ccm, tf.math.divide_no_nan(tf.reduce_sum(spa), with_partner)


def normalize(projections):
    """Normalize vectors float [..., D] to length 1, in float32 or float64."""
    projections = tf.convert_to_tensor(projections)
    dtype = projections.dtype if projections.dtype == tf.float64 else tf.float32
    return tf.math.l2_normalize(tf.cast(projections, dtype), axis=-1)


def mean_similarities(z):
    """Return the mean cosine of positives (two views of an instance) and negatives (views of different instances).

    Args:
      z: float32 [2, N, D], normalized.

    Returns:
      (positive, negative), float32 scalars. Negatives near 1 indicate a constant embedding.
    """
    instances = tf.cast(tf.shape(z)[1], z.dtype)
    positive = tf.reduce_mean(tf.reduce_sum(z[0] * z[1], -1))
    # The sum over all pairs is the squared length of the sum. The pairs of an instance with itself are subtracted.
    total = tf.reduce_sum(tf.square(tf.reduce_sum(z, [0, 1])))
    pairs = 4.0 * instances * (instances - 1.0)
    negative = tf.math.divide_no_nan(total - 2.0 * instances * (1.0 + positive), pairs)
    return positive, negative


def anchor_losses(z, labels, rotations, partners, *, alpha, beta, temperature, anchors=None):
    """Compute both losses of every anchor, not averaged, from one pass over the similarities.

    Args:
      z: float32 [2, N, D], normalized.
      labels: int [N].
      rotations: int [N], 0 to 3.
      partners: int [N], -1 for none.
      alpha: see `class_conditional_mask`.
      beta: see `class_conditional_mask`.
      temperature: see `class_conditional_mask`.
      anchors: int [n], the instances to use as anchors; all N by default.

    Returns:
      (ccm, spa), float32 [2, n] each; spa is 0 where an anchor has no partner.
    """
    z, partners = tf.convert_to_tensor(z), tf.cast(partners, tf.int32)
    labels, rotations = tf.convert_to_tensor(labels), tf.convert_to_tensor(rotations)
    instances = tf.shape(z)[1]
    rows = tf.range(instances) if anchors is None else anchors
    # With all anchors in order, no gather is needed, whose gradient is slow.
    anchor = z if anchors is None else tf.gather(z, rows, axis=1)
    partner_rows = tf.gather(partners, rows)
    has_partner = partner_rows >= 0
    mask = {"alpha": alpha, "beta": beta, "temperature": temperature}
    factor = class_conditional_mask(labels, rotations, **mask, anchors=rows, dtype=z.dtype)
    # Pairs that the two denominators do not share are excluded here and added below, so that nothing is subtracted.
    excluded = tf.constant(_EXCLUDED, z.dtype)
    cross_view = tf.where(rows[:, None] == tf.range(instances), excluded, factor)
    same_view = tf.where(partner_rows[:, None] == tf.range(instances), excluded, cross_view)
    shifted = max(alpha, beta, 1.0 / temperature) > _SAFE_EXPONENT
    rest = _log_sum_exp(anchor, z, same_view, cross_view, shifted)

    # The three special pairs of anchor (v, i): its other view, and its partner in the same view.
    first, second = tf.unstack(anchor, 2)  # the gradient of two slices is slower on a CPU
    other_view = tf.reduce_sum(first * second, -1)
    other_view = tf.stack([other_view, other_view])
    indices = tf.maximum(partner_rows, 0)
    both_views = tf.reshape(z, [2 * instances, -1])
    partner = tf.gather(both_views, tf.stack([indices, indices + instances]))
    attracted = tf.reduce_sum(anchor * partner, -1)
    other_view = tf.maximum(other_view, MIN_SIMILARITY) / temperature
    attracted = tf.maximum(attracted, MIN_SIMILARITY)
    repelled, attracted = alpha * attracted, attracted / temperature
    repelled = tf.where(has_partner, repelled, tf.math.log(tf.constant(_TINY, z.dtype)))
    ccm = tf.reduce_logsumexp([rest, other_view, repelled], 0) - other_view
    spa = tf.reduce_logsumexp([rest, tf.zeros_like(rest), attracted], 0) - attracted
    return ccm, tf.where(has_partner, spa, tf.zeros_like(spa))


def _log_sum_exp(anchor, z, same_view, cross_view, shifted: bool):
    """Compute, for every anchor, the log of the sum of exp(factor * similarity) over all views of all instances.

    The forward and the backward pass share the exponentials; of the matrices, only the derivatives are kept.

    Args:
      anchor: float32 [2, n, D], normalized.
      z: float32 [2, N, D], normalized.
      same_view: float32 [n, N], factors of the pairs within one view; _EXCLUDED for pairs that do not count.
      cross_view: float32 [n, N], factors of the pairs across the two views; _EXCLUDED for pairs that do not count.
      shifted: whether the largest exponent of a row is subtracted, because the sum would not be finite otherwise.

    Returns:
      float32 [2, n], with gradients to anchor and z.
    """

    @tf.custom_gradient
    def of_views(anchor, z):
        factors = ((same_view, cross_view), (cross_view, same_view))
        by_view = [_exponentials(anchor[v], z, factors[v], shifted) for v in range(2)]
        sums, shifts, slopes = zip(*by_view, strict=True)

        def gradient(upstream):
            weights = (upstream / tf.stack(sums))[..., None]
            weighted = weights * anchor
            to_anchor = [sum(tf.matmul(slopes[v][w], z[w]) for w in range(2)) for v in range(2)]
            to_z = [sum(tf.matmul(slopes[v][w], weighted[v], transpose_a=True) for v in range(2)) for w in range(2)]
            return weights * tf.stack(to_anchor), tf.stack(to_z)

        return tf.math.log(tf.stack(sums)) + tf.stack(shifts), gradient

    return of_views(anchor, z)


def _exponentials(anchor, z, factors, shifted: bool):
    """Compute the sums of the exponentials of anchors [n, D] against the two views z [2, N, D].

    Returns:
      sums: float32 [n], in units of exp(shift).
      shifts: float32 [n].
      slopes: two float32 [n, N], the derivatives of the sums by the similarities to either view.
    """
    similarities = [tf.matmul(anchor, view, transpose_b=True) for view in (z[0], z[1])]
    exponents = [f * tf.maximum(s, MIN_SIMILARITY) for f, s in zip(factors, similarities, strict=True)]
    shift = tf.zeros_like(anchor[:, :1])
    if shifted:
        shift = tf.maximum(shift, tf.reduce_max(tf.maximum(*exponents), axis=1, keepdims=True))
        exponents = [e - shift for e in exponents]
    terms = [tf.exp(e) for e in exponents]
    sums = tf.maximum(sum(tf.reduce_sum(t, axis=1) for t in terms), _TINY)
    clipped = zip(factors, similarities, terms, strict=True)
    return sums, shift[:, 0], [tf.where(s > MIN_SIMILARITY, f * t, tf.zeros_like(t)) for f, s, t in clipped]


def sample_partners(labels, rotations, seed):
    """Draw for every instance another one of the same class and rotation (section 3.2).

    Args:
      labels: int [N].
      rotations: int [N], 0 to 3.
      seed: int [2]; the same seed gives the same partners.

    Returns:
      int32 [N], uniform over the other members of the group; -1 for an instance that is alone in its group.
    """
    group = tf.cast(labels, tf.int64) * 4 + tf.cast(rotations, tf.int64)
    instances = tf.size(group)
    order = tf.argsort(group, stable=True)
    ordered = tf.gather(group, order)
    position = tf.range(instances)
    first = tf.searchsorted(ordered, ordered, side="left")
    size = tf.searchsorted(ordered, ordered, side="right") - first
    # A cyclic step of 1 to size - 1 within the group reaches every other member with equal probability.
    others = tf.maximum(size - 1, 1)
    step = 1 + tf.minimum(tf.cast(uniform(tf.shape(group), seed) * tf.cast(others, tf.float32), tf.int32), others - 1)
    partner = tf.gather(order, first + (position - first + step) % size)
    partner = tf.where(size > 1, partner, -1)
    return tf.scatter_nd(order[:, None], partner, [instances])
