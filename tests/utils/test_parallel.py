"""Work done ahead by threads."""

import threading

import pytest

from mcl_tf.utils import parallel


@pytest.mark.parametrize("count", [0, 1, 2, 3, 50])
def test_results_come_in_order_from_two_threads_at_once(count):
    barrier = threading.Barrier(2 if count > 1 else 1, timeout=10)

    def square(number):
        if number < 2:
            barrier.wait()  # passes only if two threads are in here
        return number**2

    assert list(parallel.in_order(square, range(count))) == [number**2 for number in range(count)]


def test_items_are_taken_as_results_are_asked_for():
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    results = parallel.in_order(lambda number: number, items())
    assert not taken
    for number in range(5):
        assert next(results) == number
        assert len(taken) == number + 3
    results.close()
    assert len(taken) == 7


def test_an_error_comes_in_its_place_and_ends_it():
    begun = []

    def fail_at_three(number):
        begun.append(number)
        if number == 3:
            raise ValueError("three")
        return number

    results = parallel.in_order(fail_at_three, range(100))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert max(begun) <= 5
    assert list(results) == []


@pytest.mark.parametrize(("batch", "part"), [(1, 1), (2, 1), (3, 2), (128, 64)])
def test_all_threads_together_hold_a_batch(batch, part):
    assert parallel.share(batch) == part
