"""The masked contrastive loss: pure functions of tensors.

Reference: Cho, Seol, Lee, "Masked Contrastive Learning for Anomaly Detection", IJCAI 2021
(arXiv:2105.08793), section 3.1 (class-conditional mask) and 3.2 (stochastic positive attraction).

Words: N instances (a picture in one rotation), 2 views of each, D dimensions. An anchor is one view of one
instance. Everything is computed in float32, whatever the projections' dtype.
"""

from __future__ import annotations

import tensorflow as tf

from mcl_tf.utils.stateless_random import uniform

MIN_SIMILARITY = 1e-7  # Similarities are clipped from below, as in the authors' code.
# exp() of at most this stays finite in float32 when 1e8 of them are summed; beyond it rows are shifted.
_SAFE_EXPONENT = 60.0
_TINY = 1e-30  # stands for an empty sum, whose logarithm must stay finite
_LEFT_OUT = -1e12  # the factor of pairs that do not count: exp() of it times any similarity is 0


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
    # All anchors in order need no gather, whose gradient is slow.
    anchor = z if anchors is None else tf.gather(z, rows, axis=1)
    partner_rows = tf.gather(partners, rows)
    has_partner = partner_rows >= 0
    factor = class_conditional_mask(
        labels, rotations, alpha=alpha, beta=beta, temperature=temperature, anchors=rows
    )
    # Pairs that neither denominator shares are left out here and added below, so nothing is subtracted.
    cross_view = tf.where(rows[:, None] == tf.range(instances), _LEFT_OUT, factor)
    same_view = tf.where(partner_rows[:, None] == tf.range(instances), _LEFT_OUT, cross_view)
    shifted = max(alpha, beta, 1.0 / temperature) > _SAFE_EXPONENT
    rest = _log_sum_exp(anchor, z, same_view, cross_view, shifted)

    # The three special pairs of anchor (v, i): its other view, and its partner in the same view.
    first, second = tf.unstack(anchor, 2)  # on a CPU the gradient of two slices is slower
    other_view = tf.reduce_sum(first * second, -1)
    other_view = tf.stack([other_view, other_view])
    places = tf.maximum(partner_rows, 0)
    both_views = tf.reshape(z, [2 * instances, -1])
    partner = tf.gather(both_views, tf.stack([places, places + instances]))
    attracted = tf.reduce_sum(anchor * partner, -1)
    other_view = tf.maximum(other_view, MIN_SIMILARITY) / temperature
    attracted = tf.maximum(attracted, MIN_SIMILARITY)
    repelled, attracted = alpha * attracted, attracted / temperature
    repelled = tf.where(has_partner, repelled, tf.math.log(_TINY))
    ccm = tf.reduce_logsumexp([rest, other_view, repelled], 0) - other_view
    spa = tf.reduce_logsumexp([rest, tf.zeros_like(rest), attracted], 0) - attracted
    return ccm, tf.where(has_partner, spa, 0.0)


def _log_sum_exp(anchor, z, same_view, cross_view, shifted: bool):
    """log of the sum over all views of all instances of exp(factor x similarity), for every anchor.

    Backward and forward pass share the exponentials; of the matrices only their slopes are kept.

    Args:
      anchor: float32 [2, n, D], normalised.
      z: float32 [2, N, D], normalised.
      same_view, cross_view: float32 [n, N], factors of the pairs in one view and of those across the two;
        _LEFT_OUT for pairs that do not count.
      shifted: whether a row's largest exponent is taken out of the sum, which would not be finite otherwise.

    Returns:
      float32 [2, n], with gradients to anchor and z.
    """

    @tf.custom_gradient
    def of_views(anchor, z):
        factors = ((same_view, cross_view), (cross_view, same_view))
        found = [_exponentials(anchor[v], z, factors[v], shifted) for v in range(2)]
        sums, shifts, slopes = zip(*found, strict=True)

        def gradient(upstream):
            weights = (upstream / tf.stack(sums))[..., None]
            weighted = weights * anchor
            to_anchor = [sum(tf.matmul(slopes[v][w], z[w]) for w in range(2)) for v in range(2)]
            to_z = [
                sum(tf.matmul(slopes[v][w], weighted[v], transpose_a=True) for v in range(2)) for w in range(2)
            ]
            return weights * tf.stack(to_anchor), tf.stack(to_z)

        return tf.math.log(tf.stack(sums)) + tf.stack(shifts), gradient

    return of_views(anchor, z)


def _exponentials(anchor, z, factors, shifted: bool):
    """The sums of the exponentials of anchors [n, D] against the two views z [2, N, D].

    Returns:
      sums: [n], in units of exp(shift).
      shifts: [n].
      slopes: derivatives [n, N] of the sums by the similarities, for either view.
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
    return sums, shift[:, 0], [tf.where(s > MIN_SIMILARITY, f * t, 0.0) for f, s, t in clipped]


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
