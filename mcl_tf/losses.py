"""The masked contrastive loss: pure functions of tensors.

Reference: Cho, Seol, Lee, "Masked Contrastive Learning for Anomaly Detection", IJCAI 2021
(arXiv:2105.08793), section 3.1 (class-conditional mask) and 3.2 (stochastic positive attraction).

Words: N instances (a picture in one rotation), 2 views of each, D dimensions. An anchor is one view of one
instance. Everything is computed in float32, whatever the projections' dtype.
"""

from __future__ import annotations

import tensorflow as tf

from mcl_tf.random_numbers import uniform

MIN_SIMILARITY = 1e-7  # Similarities are clipped from below, as in the authors' code.
# exp() of at most this stays finite in float32 when 1e8 of them are summed; beyond it rows are shifted.
_SAFE_EXPONENT = 60.0
_TINY = 1e-30  # stands for an empty sum, whose logarithm must stay finite


def class_conditional_mask(labels, rotations, *, alpha, beta, temperature, anchors=None):
    """Factors of the pairwise similarities in the denominator (section 3.1).

    Args:
      labels: int [N], class of every instance.
      rotations: int [N], rotation of every instance, 0 to 3.
      alpha: factor of two instances with the same class and rotation.
      beta: factor of two instances with the same class and different rotations.
      temperature: pairs of different classes, and an instance with itself, have 1 / temperature.
      anchors: int [n], the rows wanted; all N by default.

    Returns:
      float32 [N, N], or [n, N] with `anchors`.
    """
    labels, rotations = tf.convert_to_tensor(labels), tf.convert_to_tensor(rotations)
    rows = tf.range(tf.size(labels)) if anchors is None else anchors
    same_class = tf.gather(labels, rows)[:, None] == labels[None, :]
    same_rotation = tf.gather(rotations, rows)[:, None] == rotations[None, :]
    itself = rows[:, None] == tf.range(tf.size(labels))[None, :]
    within = tf.where(same_rotation, tf.cast(alpha, tf.float32), tf.cast(beta, tf.float32))
    return tf.where(same_class & ~itself, within, tf.cast(1.0 / temperature, tf.float32))


def ccm_loss(projections, labels, rotations, *, alpha, beta, temperature):
    """Contrastive loss with the class-conditional mask (section 3.1), mean over all 2N anchors.

    Args:
      projections: float [2, N, D], the two views, not normalised.
      labels: int [N].
      rotations: int [N], 0 to 3.
      alpha, beta, temperature: see `class_conditional_mask`.

    Returns:
      float32 scalar.
    """
    no_partners = tf.fill([tf.shape(projections)[1]], -1)
    mask = {"alpha": alpha, "beta": beta, "temperature": temperature}
    ccm, _ = anchor_losses(normalize(projections), labels, rotations, no_partners, **mask)
    return tf.reduce_mean(ccm)


def spa_loss(projections, labels, rotations, partners, *, alpha, beta, temperature):
    """Stochastic positive attraction (section 3.2), mean over the anchors that have a partner.

    Args:
      projections: float [2, N, D], the two views, not normalised.
      labels: int [N].
      rotations: int [N], 0 to 3.
      partners: int [N], the instance each one is drawn to, -1 for none; see `sample_partners`.
      alpha, beta, temperature: see `class_conditional_mask`.

    Returns:
      float32 scalar, 0 if no instance has a partner.
    """
    mask = {"alpha": alpha, "beta": beta, "temperature": temperature}
    _, spa = anchor_losses(normalize(projections), labels, rotations, partners, **mask)
    return tf.math.divide_no_nan(tf.reduce_sum(spa), count_anchors(partners))


def count_anchors(partners):
    """The number of anchors (two an instance) that have a partner: int [N] -> float32 scalar."""
    return 2.0 * tf.reduce_sum(tf.cast(tf.convert_to_tensor(partners) >= 0, tf.float32))


def normalize(projections):
    """L2-normalised along the last axis, in float32."""
    return tf.math.l2_normalize(tf.cast(projections, tf.float32), axis=-1)


def mean_similarities(z):
    """Mean cosine of positives (two views of an instance) and of negatives (views of different instances).

    Args:
      z: float32 [2, N, D], normalised.

    Returns:
      (positive, negative), float32 scalars. Negatives near 1 tell of a constant embedding.
    """
    instances = tf.cast(tf.shape(z)[1], tf.float32)
    positive = tf.reduce_mean(tf.reduce_sum(z[0] * z[1], -1))
    # The sum over all pairs is the squared length of the sum; taken from it, an instance's pairs with itself.
    total = tf.reduce_sum(tf.square(tf.reduce_sum(z, [0, 1])))
    pairs = 4.0 * instances * (instances - 1.0)
    negative = tf.math.divide_no_nan(total - 2.0 * instances * (1.0 + positive), pairs)
    return positive, negative


def anchor_losses(z, labels, rotations, partners, *, alpha, beta, temperature, anchors=None):
    """Both losses of every anchor, not yet averaged, from one pass over the similarities.

    A replica passes the projections of all replicas and its own rows as `anchors`; what all replicas return
    together is what one device would.

    Args:
      z: float32 [2, N, D], normalised.
      labels, rotations, partners: int [N].
      alpha, beta, temperature: see `class_conditional_mask`.
      anchors: int [n], the instances to take as anchors; all N by default.

    Returns:
      (ccm, spa), float32 [2, n] each; spa is 0 where an anchor has no partner.
    """
    z, partners = tf.convert_to_tensor(z), tf.cast(partners, tf.int32)
    labels, rotations = tf.convert_to_tensor(labels), tf.convert_to_tensor(rotations)
    instances = tf.shape(z)[1]
    rows = tf.range(instances) if anchors is None else anchors
    # Pairs that neither denominator shares are left out here and added below, so nothing is subtracted.
    itself = tf.one_hot(rows, instances)
    partner_rows = tf.gather(partners, rows)
    partner = tf.one_hot(partner_rows, instances)
    same_view, cross_view = 1.0 - itself - partner, 1.0 - itself
    keep = tf.stack([tf.stack([same_view, cross_view], 1), tf.stack([cross_view, same_view], 1)])

    anchor = tf.gather(z, rows, axis=1)
    similarity = tf.einsum("vnd,wmd->vnwm", anchor, z)
    factor = class_conditional_mask(
        labels, rotations, alpha=alpha, beta=beta, temperature=temperature, anchors=rows
    )
    logits = factor[:, None, :] * tf.maximum(similarity, MIN_SIMILARITY)

    # The three special pairs of anchor (v, i): its other view, and its partner in the same view.
    other_view = tf.reduce_sum(anchor * tf.gather(z[::-1], rows, axis=1), -1)
    attracted = tf.reduce_sum(anchor * tf.gather(z, tf.maximum(partner_rows, 0), axis=1), -1)
    other_view = tf.maximum(other_view, MIN_SIMILARITY) / temperature
    attracted = tf.maximum(attracted, MIN_SIMILARITY)
    repelled, attracted = alpha * attracted, attracted / temperature

    shift = tf.zeros_like(other_view)
    if max(alpha, beta, 1.0 / temperature) > _SAFE_EXPONENT:
        shift = tf.stop_gradient(tf.reduce_max(logits * keep, [2, 3]))
        logits = tf.minimum(logits, shift[:, :, None, None])  # the pairs left out must not overflow
    rest = tf.reduce_sum(tf.exp(logits - shift[:, :, None, None]) * keep, [2, 3])
    rest = tf.math.log(tf.maximum(rest, _TINY)) + shift

    has_partner = partner_rows >= 0
    repelled = tf.where(has_partner, repelled, tf.math.log(_TINY))
    ccm = tf.reduce_logsumexp([rest, other_view, repelled], 0) - other_view
    spa = tf.reduce_logsumexp([rest, tf.zeros_like(rest), attracted], 0) - attracted
    return ccm, tf.where(has_partner, spa, 0.0)


def sample_partners(labels, rotations, seed):
    """Draws for every instance another one of the same class and rotation (section 3.2).

    Args:
      labels: int [N].
      rotations: int [N], 0 to 3.
      seed: int [2]; the same seed gives the same partners.

    Returns:
      int32 [N], uniform over the others of the group; -1 for an instance that is alone in its group.
    """
    group = tf.cast(labels, tf.int64) * 4 + tf.cast(rotations, tf.int64)
    instances = tf.size(group)
    order = tf.argsort(group, stable=True)
    ordered = tf.gather(group, order)
    place = tf.range(instances)
    first = tf.searchsorted(ordered, ordered, side="left")
    size = tf.searchsorted(ordered, ordered, side="right") - first
    # A step of 1 to size - 1 around the group's circle reaches every other member with equal chance.
    others = tf.maximum(size - 1, 1)
    step = 1 + tf.minimum(
        tf.cast(uniform(tf.shape(group), seed) * tf.cast(others, tf.float32), tf.int32), others - 1
    )
    partner = tf.gather(order, first + (place - first + step) % size)
    partner = tf.where(size > 1, partner, -1)
    return tf.scatter_nd(order[:, None], partner, [instances])
