import numpy as np
import pytest

from mcl_tf import units
from mcl_tf.units import EVIDENCE_WEIGHT

PARTS = {
    "distance": np.array([1.0, 3.0, 5.0]),
    "evidence": np.array([0.0, 0.0, 6.0]),
    "texture": np.array([2.0, 2.0, 8.0]),
    "patches": np.array([-1.0, 0.0, 1.0]),
}


def scaled(name):
    return (PARTS[name] - PARTS[name].mean()) / PARTS[name].std()


def image(names):
    value = scaled("distance") + (EVIDENCE_WEIGHT * scaled("evidence") if "evidence" in names else 0.0)
    return value, (value - value.mean()) / value.std()


@pytest.mark.parametrize(
    "names",
    [
        ("distance",),
        ("distance", "evidence"),
        ("distance", "texture"),
        ("distance", "evidence", "texture"),
        ("distance", "texture", "patches"),
    ],
)
@pytest.mark.parametrize("score", ["image", "local", "both"])
def test_parts_are_added_in_units_of_their_spread(names, score):
    parts = {name: PARTS[name] for name in names}
    local = sum(scaled(name) for name in names if name in ("texture", "patches"))
    expected = {"image": image(names)[0], "local": local, "both": image(names)[1] + local}[score]
    if score == "local" and "texture" not in names:
        return
    np.testing.assert_allclose(units.combine(parts, units.measure(parts), score), expected, atol=1e-12)


def test_the_units_of_maps_are_those_of_all_places(rng):
    places = rng.normal(3.0, 2.0, (5, 4, 4))
    assert units.measure({"places": places}) == {"places": (places.mean(), places.std())}


@pytest.mark.parametrize("value", [0.0, 7.0, -1e6])
def test_equal_values_have_a_spread(value):
    (center, spread) = units.measure({"texture": np.full(4, value)})["texture"]
    assert center == value
    assert spread > 0.0


def test_names_of_the_rows():
    assert units.names(False) == ("distance", "evidence", "image", "texture")
    assert units.names(True) == (*units.names(False), "patches", "places")
