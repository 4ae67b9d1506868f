"""The losses, compared with golden values, plain loops in float64 and closed forms."""

import functools
import math
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf import blocked_losses, losses

GOLDEN = pathlib.Path(__file__).parent / "golden"
FLOOR = 1e-7  # the smallest similarity


# The reference: sections 3.1 and 3.2 of the paper (arXiv:2105.08793) as loops over anchors and pairs, in float64.


def unit(x):
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def pair_factor(i, j, labels, rotations, alpha, beta, tau):
    if i == j or labels[i] != labels[j]:
        return 1.0 / tau
    return alpha if rotations[i] == rotations[j] else beta


def log_sum_exp(terms):
    top = max(terms)
    return top + math.log(sum(math.exp(term - top) for term in terms))


def loop_losses(x, labels, rotations, partners, alpha, beta, tau):
    """Return ccm [2, N] and spa [2, N], NaN where there is no partner, of projections x [2, N, D]."""
    z = unit(x)
    n = z.shape[1]
    cosine = np.einsum("vnd,wmd->vnwm", z, z)
    ccm, spa = np.zeros((2, n)), np.full((2, n), np.nan)
    for v in range(2):
        for i in range(n):
            masked, attracted = [], []
            for w in range(2):
                for j in range(n):
                    if (w, j) == (v, i):
                        continue
                    similarity = max(cosine[v, i, w, j], FLOOR)
                    factor = pair_factor(i, j, labels, rotations, alpha, beta, tau)
                    masked.append(factor * similarity)
                    if j == i:  # the other view of the same instance
                        factor = 0.0
                    elif (w, j) == (v, partners[i]):
                        factor = 1.0 / tau
                    attracted.append(factor * similarity)
            ccm[v, i] = log_sum_exp(masked) - max(cosine[v, i, 1 - v, i], FLOOR) / tau
            if partners[i] >= 0:
                spa[v, i] = log_sum_exp(attracted) - max(cosine[v, i, v, partners[i]], FLOOR) / tau
    return ccm, spa


def mean_or_zero(values):
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else 0.0


def draw_problem(seed, n, classes, dimension=8, spread=1.0):
    """Draw projections with a common part, so that similarities of both signs and near 1 occur."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, n, dimension)) * spread + rng.normal(size=dimension)
    x[1] = x[0] + 0.5 * rng.normal(size=(n, dimension))
    x *= rng.uniform(0.1, 30.0, size=(2, n, 1))  # lengths have no effect
    labels, rotations = rng.integers(0, classes, n), rng.integers(0, 4, n)
    partners = np.full(n, -1)
    for i in range(n):
        group = [j for j in range(n) if j != i and labels[j] == labels[i] and rotations[j] == rotations[i]]
        if group:
            partners[i] = rng.choice(group)
    return x.astype(np.float32), labels.astype(np.int32), rotations.astype(np.int32), partners.astype(np.int32)


def float32_tolerance(alpha, beta, tau):
    """Return the error of a loss in float32.

    Dot products of unit vectors of 8 numbers are off by up to 4e-7. Exponents are these products times a factor, and
    the logarithm of the sum of the exponentials is off by no more than the exponents. 1e-6 is for the sums themselves.
    """
    return 8e-7 * max(alpha, beta, 1.0 / tau) + 1e-6


# Golden values.


@pytest.fixture(scope="module", params=["loss_multi_class", "loss_one_class"])
def golden(request):
    with np.load(GOLDEN / f"{request.param}.npz") as file:
        return {name: file[name] for name in file}


@pytest.mark.parametrize("name", ["ccm", "spa"])
def test_losses_and_gradients_match_golden_values(golden, name):
    # The values were computed in float32, whose rounding is 1e-7 of the value; 1e-5 allows for another order of sums.
    views = [tf.constant(golden["view0"]), tf.constant(golden["view1"])]
    mask = {key: float(golden[key]) for key in ("alpha", "beta", "temperature")}
    with tf.GradientTape() as tape:
        tape.watch(views)
        x, labels, rotations = tf.stack(views), golden["label"], golden["rotation"]
        if name == "ccm":
            loss = losses.ccm_loss(x, labels, rotations, **mask)
        else:
            loss = losses.spa_loss(x, labels, rotations, golden["partner"], **mask)
    assert loss.dtype == tf.float32
    np.testing.assert_allclose(loss, golden[name], rtol=1e-5)
    for view, gradient in enumerate(tape.gradient(loss, views)):
        expected = golden[f"{name}_grad_view{view}"]
        assert np.abs(gradient - expected).max() < 1e-5 * np.abs(expected).max()


def test_golden_partners_are_possible_draws(golden):
    # Every golden partner shares class and rotation with its instance; otherwise the files would be misread.
    partner = golden["partner"]
    assert (partner != np.arange(len(partner))).all()
    for field in ("label", "rotation"):
        np.testing.assert_array_equal(golden[field][partner], golden[field])


# The mask.


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("alpha", "beta", "temperature"), [(0.05, 2.0, 0.2), (0.0, 10.0, 0.1), (3.0, 0.5, 2.0)])
def test_mask_matches_its_definition(seed, alpha, beta, temperature):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 20))
    labels, rotations = rng.integers(0, 1 + seed, n), rng.integers(0, 4, n)
    mask = {"alpha": alpha, "beta": beta, "temperature": temperature}
    found = losses.class_conditional_mask(labels, rotations, **mask).numpy()
    assert found.shape == (n, n)
    assert found.dtype == np.float32
    for i in range(n):
        for j in range(n):
            expected = pair_factor(i, j, labels, rotations, alpha, beta, temperature)
            assert found[i, j] == np.float32(expected), (i, j)
    rows = rng.permutation(n)[: n // 2 + 1].astype(np.int32)
    part = losses.class_conditional_mask(labels, rotations, **mask, anchors=rows)
    np.testing.assert_array_equal(part, found[rows])


def test_mask_by_hand():
    # Instances: class 0 in rotations 0, 0 and 1, and class 1 in rotation 0; 1 / 0.2 = 5.
    found = losses.class_conditional_mask([0, 0, 0, 1], [0, 0, 1, 0], alpha=0.05, beta=2.0, temperature=0.2)
    expected = [[5, 0.05, 2, 5], [0.05, 5, 2, 5], [2, 2, 5, 5], [5, 5, 5, 5]]
    np.testing.assert_array_equal(found, np.float32(expected))


# Values, compared with the loops.

SETTINGS = [  # alpha, beta, temperature
    pytest.param(0.05, 2.0, 0.5, id="tau0.5"),
    pytest.param(0.05, 2.0, 0.2, id="labelled-defaults"),
    pytest.param(0.05, 5.0, 0.2, id="one-class-defaults"),
    pytest.param(0.0, 1 / 0.07, 0.07, id="tau0.07"),
    pytest.param(1.5, 100.0, 0.01, id="tau0.01"),  # exponents above 60 need the shifted sum
    pytest.param(0.0, 0.0, 0.2, id="zero-factors"),
    pytest.param(80.0, 70.0, 0.5, id="large-factors"),  # shifted although 1 / tau is small
    pytest.param(200.0, 0.5, 0.2, id="alpha-exponent-above-float32"),  # exp(200) overflows float32
    pytest.param(0.05, 300.0, 0.2, id="beta-exponent-above-float32"),
]
PROBLEMS = [  # seed, N, classes
    pytest.param(0, 1, 1, id="alone"),
    pytest.param(1, 2, 1, id="two"),
    pytest.param(2, 5, 3, id="mostly-without-partner"),
    pytest.param(3, 16, 1, id="one-class"),
    pytest.param(4, 17, 2, id="two-classes"),
    pytest.param(5, 24, 5, id="five-classes"),
]


@pytest.mark.parametrize(("alpha", "beta", "temperature"), SETTINGS)
@pytest.mark.parametrize(("seed", "n", "classes"), PROBLEMS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_losses_match_plain_loops(dtype, seed, n, classes, alpha, beta, temperature):
    x, labels, rotations, partners = draw_problem(seed, n, classes)
    x = x.astype(dtype)
    ccm, spa = loop_losses(x, labels, rotations, partners, alpha, beta, temperature)
    mask = {"alpha": alpha, "beta": beta, "temperature": temperature}
    tolerance = {"rtol": 2e-6, "atol": float32_tolerance(alpha, beta, temperature)}
    if dtype == "float64":
        tolerance = {"rtol": 1e-12, "atol": 1e-12}
    found = losses.ccm_loss(x, labels, rotations, **mask)
    np.testing.assert_allclose(found, ccm.mean(), **tolerance)
    found = losses.spa_loss(x, labels, rotations, partners, **mask)
    np.testing.assert_allclose(found, mean_or_zero(spa), **tolerance)
    both = losses.contrastive_losses(x, labels, rotations, partners, **mask)
    np.testing.assert_allclose(both, [ccm.mean(), mean_or_zero(spa)], **tolerance)
    # Per anchor, where errors cannot cancel.
    per_anchor = losses.anchor_losses(losses.normalize(x), labels, rotations, partners, **mask)
    np.testing.assert_allclose(per_anchor[0], ccm, **tolerance)
    np.testing.assert_allclose(per_anchor[1], np.nan_to_num(spa), **tolerance)
    assert {value.dtype for value in (found, *both, *per_anchor)} == {tf.as_dtype(dtype)}


def test_problems_have_instances_with_and_without_partner():
    partners = [draw_problem(*problem.values)[3] for problem in PROBLEMS]
    assert any((p < 0).any() and (p >= 0).any() for p in partners)
    assert any((p < 0).all() for p in partners)
    assert any((p >= 0).all() for p in partners)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_losses_of_half_precision_projections_are_computed_in_float32(dtype):
    # Half-precision numbers are exact in float32, so the reference reads the rounded numbers.
    x, labels, rotations, partners = draw_problem(7, 12, 2)
    x = tf.cast(x, dtype)
    mask = {"alpha": 0.05, "beta": 2.0, "temperature": 0.2}
    ccm, spa = loop_losses(tf.cast(x, tf.float64).numpy(), labels, rotations, partners, *mask.values())
    tolerance = float32_tolerance(*mask.values())
    found = losses.ccm_loss(x, labels, rotations, **mask), losses.spa_loss(x, labels, rotations, partners, **mask)
    assert [loss.dtype for loss in found] == [tf.float32, tf.float32]
    np.testing.assert_allclose(found[0], ccm.mean(), atol=tolerance)
    np.testing.assert_allclose(found[1], mean_or_zero(spa), atol=tolerance)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "int64"])
def test_losses_with_labels_of_other_dtypes(dtype):
    x, labels, rotations, partners = draw_problem(8, 9, 3)
    mask = {"alpha": 0.05, "beta": 2.0, "temperature": 0.2}
    expected = losses.spa_loss(x, labels, rotations, partners, **mask)
    cast = [values.astype(dtype) for values in (labels, rotations)]
    assert losses.spa_loss(x, *cast, partners, **mask) == expected


def test_constant_embedding_in_closed_form():
    # 64 images of one class, N = 256, all similarities 1. The denominator of CCM has e^5 for the positive, 126 terms
    # with alpha (63 images in two views) and 384 terms with beta. That of SPA has e^5 for the partner, 1 for the other
    # view of the anchor, 125 terms with alpha and 384 with beta. The loss of a collapsed network is their sum, about
    # 6.09.
    x = tf.ones((2, 256, 3))
    labels, rotations = tf.zeros(256, tf.int32), tf.tile(tf.range(4), [64])
    partners = (np.arange(256) + 4) % 256
    mask = {"alpha": 0.05, "beta": 2.0, "temperature": 0.2}
    ccm = math.log(math.exp(5) + 126 * math.exp(0.05) + 384 * math.exp(2)) - 5
    spa = math.log(math.exp(5) + 1 + 125 * math.exp(0.05) + 384 * math.exp(2)) - 5
    np.testing.assert_allclose(losses.ccm_loss(x, labels, rotations, **mask), ccm, rtol=2e-6)
    np.testing.assert_allclose(losses.spa_loss(x, labels, rotations, partners, **mask), spa, rtol=2e-6)


def test_one_instance_in_closed_form():
    # The denominator contains the positive only, so the loss is 0 for any views.
    x = np.random.default_rng(0).normal(size=(2, 1, 4))
    assert abs(losses.ccm_loss(x, [0], [0], alpha=0.05, beta=2.0, temperature=0.2)) < 1e-6


# Gradients.


@pytest.mark.parametrize(("alpha", "beta", "temperature"), [(0.05, 5.0, 0.2), (90.0, 80.0, 0.02)])
@pytest.mark.parametrize("name", ["ccm", "spa"])
def test_gradients_match_finite_differences_of_the_loops(name, alpha, beta, temperature):
    # Central differences with a step of 1e-5 are accurate to 1e-6 of the gradient for exponents below 100. The rest is
    # float32: cosines off by 4e-7 times a factor of up to 90 change a softmax weight by 4e-5 of its value.
    x, labels, rotations, _ = draw_problem(11, 5, 1, dimension=3)
    x = unit(x).astype(np.float32)  # of length 1, because gradients shrink with the length
    rotations[:3], partners = rotations[0], np.array([1, 2, 0, -1, -1], np.int32)
    mask = {"alpha": alpha, "beta": beta, "temperature": temperature}

    def reference(values):
        return mean_or_zero(loop_losses(values, labels, rotations, partners, **rename(mask))[name == "spa"])

    variable = tf.Variable(x)
    with tf.GradientTape() as tape:
        if name == "ccm":
            loss = losses.ccm_loss(variable, labels, rotations, **mask)
        else:
            loss = losses.spa_loss(variable, labels, rotations, partners, **mask)
    found = tape.gradient(loss, variable).numpy()
    expected = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        step = np.zeros(x.shape)
        step[index] = 1e-5
        expected[index] = (reference(x + step) - reference(x - step)) / 2e-5
    assert np.abs(expected).max() > 0.1
    assert np.abs(found - expected).max() < 2e-4 * np.abs(expected).max()


def rename(mask):
    return {"alpha": mask["alpha"], "beta": mask["beta"], "tau": mask["temperature"]}


def value_and_gradients(x, labels, rotations, partners, **mask):
    x = tf.Variable(x, dtype=tf.float32)
    with tf.GradientTape() as tape:
        ccm = losses.ccm_loss(x, labels, rotations, **mask)
        spa = losses.spa_loss(x, labels, rotations, partners, **mask)
        total = ccm + spa
    return ccm.numpy(), spa.numpy(), tape.gradient(total, x).numpy()


@pytest.mark.parametrize("n", [1, 4])
def test_spa_is_zero_without_partners(n):
    x = np.random.default_rng(3).normal(size=(2, n, 6))
    ccm, spa, gradients = value_and_gradients(
        x, np.arange(n), np.zeros(n, np.int32), np.full(n, -1), alpha=0.05, beta=2.0, temperature=0.2
    )
    assert spa == 0.0
    assert np.isfinite(ccm)
    assert np.isfinite(gradients).all()


@pytest.mark.parametrize(
    ("alpha", "beta", "temperature"),
    [(0.05, 1000.0, 0.001), (1000.0, 0.05, 0.001), (0.05, 2.0, 0.001), (0.05, 2.0, 100.0)],
)
@pytest.mark.parametrize("kind", ["random", "constant", "opposite"])
def test_losses_with_extreme_factors_are_finite_and_correct(kind, alpha, beta, temperature):
    x, labels, rotations, partners = draw_problem(13, 12, 2)
    if kind == "constant":
        x[:] = x[0, 0]
    elif kind == "opposite":  # positives below the floor, partners of either sign
        x[1] = -x[0]
    mask = {"alpha": alpha, "beta": beta, "temperature": temperature}
    ccm, spa, gradients = value_and_gradients(x, labels, rotations, partners, **mask)
    assert np.isfinite(gradients).all()
    expected = loop_losses(x, labels, rotations, partners, alpha, beta, temperature)
    tolerance = float32_tolerance(alpha, beta, temperature)
    np.testing.assert_allclose(ccm, mean_or_zero(expected[0]), rtol=2e-6, atol=tolerance)
    np.testing.assert_allclose(spa, mean_or_zero(expected[1]), rtol=2e-6, atol=tolerance)


def test_losses_of_a_zero_projection_are_finite():
    # Dead units may give a projection of length 0. Its similarities are 0, below the floor.
    x, labels, rotations, partners = draw_problem(14, 8, 1)
    x[0, 0] = 0.0
    ccm, spa, gradients = value_and_gradients(x, labels, rotations, partners, alpha=0.05, beta=5.0, temperature=0.2)
    assert np.isfinite([ccm, spa]).all()
    assert np.isfinite(gradients).all()


# Slices of anchors, one per replica.


@pytest.mark.parametrize(("alpha", "beta", "temperature"), [(0.05, 2.0, 0.2), (1.5, 100.0, 0.01)])
@pytest.mark.parametrize("cuts", [(8,), (3, 5, 12), tuple(range(1, 16))])
def test_slices_of_anchors_give_the_losses_of_all_anchors(cuts, alpha, beta, temperature):
    x, labels, rotations, partners = draw_problem(15, 16, 2)
    z, mask = losses.normalize(x), {"alpha": alpha, "beta": beta, "temperature": temperature}
    whole = losses.anchor_losses(z, labels, rotations, partners, **mask)
    parts = [
        losses.anchor_losses(z, labels, rotations, partners, **mask, anchors=tf.constant(rows, tf.int32))
        for rows in np.split(np.arange(16), cuts)
    ]
    for index, expected in enumerate(whole):
        found = tf.concat([part[index] for part in parts], axis=1)
        # Matrix products of other shapes have another order of sums.
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=float32_tolerance(alpha, beta, temperature))


@pytest.mark.parametrize("cuts", [(8,), (3, 5, 12)])
def test_contrastive_losses_of_slices_sum_to_those_of_all_anchors(cuts):
    x, labels, rotations, partners = draw_problem(15, 16, 3)
    assert 0 < (partners < 0).sum() < 16
    mask = {"alpha": 0.05, "beta": 2.0, "temperature": 0.2}
    x = x.astype(np.float64)
    whole = losses.contrastive_losses(x, labels, rotations, partners, **mask)
    parts = [
        losses.contrastive_losses(x, labels, rotations, partners, **mask, anchors=tf.constant(rows, tf.int32))
        for rows in np.split(np.arange(16), cuts)
    ]
    np.testing.assert_allclose(np.sum(parts, axis=0), whole, rtol=1e-12)


def test_contrastive_losses_in_blocks():
    x, labels, rotations, partners = draw_problem(15, 16, 3)
    mask = {"alpha": 0.05, "beta": 2.0, "temperature": 0.2}
    x = x.astype(np.float64)
    whole = losses.contrastive_losses(x, labels, rotations, partners, **mask)
    per_anchor = functools.partial(blocked_losses.anchor_losses, block_size=6)
    found = losses.contrastive_losses(x, labels, rotations, partners, **mask, per_anchor=per_anchor)
    np.testing.assert_allclose(found, whole, rtol=1e-12)


def test_losses_do_not_depend_on_the_order_of_instances():
    x, labels, rotations, partners = draw_problem(16, 14, 2)
    order = np.random.default_rng(1).permutation(14)
    new_index = np.append(np.argsort(order), -1)  # of every instance; -1 remains -1
    mask = {"alpha": 0.05, "beta": 2.0, "temperature": 0.2}
    found = losses.contrastive_losses(x[:, order], labels[order], rotations[order], new_index[partners][order], **mask)
    expected = losses.contrastive_losses(x, labels, rotations, partners, **mask)
    np.testing.assert_allclose(found, expected, rtol=2e-6)


@pytest.mark.parametrize(
    ("dtype", "expected", "tolerance"),
    [("float64", "float64", 1e-15), ("float32", "float32", 1e-6), ("float16", "float32", 1e-6)],
)
def test_normalize_gives_length_1(dtype, expected, tolerance):
    found = losses.normalize(tf.constant([[3.0, 4.0]], dtype))
    assert found.dtype == expected
    np.testing.assert_allclose(found, [[0.6, 0.8]], rtol=tolerance)


@pytest.mark.parametrize("n", [1, 2, 9])
def test_mean_similarities_match_loops(n):
    z = unit(draw_problem(17, n, 1)[0])
    positive = np.mean([z[0, i] @ z[1, i] for i in range(n)])
    pairs = [z[v, i] @ z[w, j] for v in range(2) for w in range(2) for i in range(n) for j in range(n) if i != j]
    negative = np.mean(pairs) if pairs else 0.0
    found = losses.mean_similarities(tf.constant(z, tf.float32))
    np.testing.assert_allclose(found, [positive, negative], atol=2e-6)  # float32 sums of (2 n)^2 cosines


# Partners.


def test_partners_are_others_of_the_same_group():
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 17, 40):
        labels, rotations = rng.integers(0, 3, n), rng.integers(0, 4, n)
        partners = losses.sample_partners(labels, rotations, [n, 5]).numpy()
        assert partners.shape == (n,)
        assert partners.dtype == np.int32
        for i, partner in enumerate(partners):
            group = {j for j in range(n) if j != i and (labels[j], rotations[j]) == (labels[i], rotations[i])}
            assert partner in (group or {-1})


def test_partners_in_groups_of_one_and_two_are_determined():
    partners = losses.sample_partners([4, 7, 4, 7, 7], [1, 0, 1, 0, 3], [0, 0])
    np.testing.assert_array_equal(partners, [2, 3, 0, 1, -1])
    np.testing.assert_array_equal(losses.sample_partners([0, 1, 2], [0, 0, 0], [0, 0]), [-1, -1, -1])


def test_partners_follow_from_the_seed():
    labels, rotations = np.zeros(40, np.int32), np.tile([0, 1], 20)
    draws = [losses.sample_partners(labels, rotations, seed).numpy() for seed in ([1, 2], [1, 2], [1, 3], [2, 2])]
    np.testing.assert_array_equal(draws[0], draws[1])
    for other in draws[2:]:
        assert (draws[0] != other).mean() > 0.5  # 19 to choose from


@pytest.mark.parametrize(
    ("dtype", "high"),
    [
        ("int8", 127),
        ("uint8", 255),
        ("int16", 32767),
        ("int32", 2**31 - 1),
        ("int64", 10**15),
        ("uint32", 2**32 - 1),
    ],
)
def test_partners_with_labels_of_any_integer_size(dtype, high):
    # Labels at the end of the range of a dtype must not overflow in the number of a (class, rotation) pair.
    labels = np.array([high, high - 1, high, high - 64, high, 0, high - 64], dtype)
    rotations = np.array([3, 3, 3, 0, 2, 3, 0], np.int32)
    partners = losses.sample_partners(labels, rotations, [0, 1])
    np.testing.assert_array_equal(partners, [2, -1, 0, 6, -1, -1, 3])


@pytest.fixture(scope="module")
def drawn():
    """Partners [3000, 10] of groups of 5, 3, 1 and 1 instances, in mixed order."""
    labels = tf.constant([0, 1, 0, 0, 1, 2, 0, 1, 0, 0])
    rotations = tf.constant([0, 0, 0, 0, 0, 0, 0, 0, 0, 1])

    @tf.function
    def draw(seeds):
        return tf.map_fn(lambda seed: losses.sample_partners(labels, rotations, seed), seeds, tf.int32)

    return draw(tf.stack([tf.fill([3000], 11), tf.range(3000)], axis=1)).numpy()


def chi_square(counts):
    expected = counts.sum() / counts.size
    return ((counts - expected) ** 2 / expected).sum()


def test_partners_are_uniform_over_the_others(drawn):
    # Chi-square exceeds 27.7 with 3 degrees of freedom, or 20.8 with 1 degree, once in 200,000 times; the seeds are
    # fixed. Partners from one side only, or a group without its last member, give values in the hundreds.
    for group, bound in (([0, 2, 3, 6, 8], 27.7), ([1, 4, 7], 20.8)):
        for i in group:
            others = [j for j in group if j != i]
            counts = np.array([(drawn[:, i] == j).sum() for j in others])
            assert counts.sum() == len(drawn)
            assert chi_square(counts) < bound, (i, counts)
    assert (drawn[:, [5, 9]] == -1).all()


def test_partners_of_two_instances_are_independent(drawn):
    # 4 x 4 equally likely pairs; chi-square with 15 degrees of freedom exceeds 50 once in 90,000 times.
    counts = np.array([((drawn[:, 0] == a) & (drawn[:, 2] == b)).sum() for a in (2, 3, 6, 8) for b in (0, 3, 6, 8)])
    assert chi_square(counts) < 50.0
