"""Mapping in threads: order, look-ahead and errors."""

import threading

import pytest

from mcl_tf.utils import parallel


@pytest.mark.parametrize("count", [0, 1, 2, 3, 50])
def test_two_threads_yield_results_in_order(count):
    barrier = threading.Barrier(2 if count > 1 else 1, timeout=10)

    def square(number):
        if number < 2:
            barrier.wait()  # returns only if two threads are here
        return number**2

    assert list(parallel.map_in_order(square, range(count))) == [number**2 for number in range(count)]


def test_items_are_consumed_as_results_are_requested():
    consumed = []

    def items():
        for number in range(100):
            consumed.append(number)
            yield number

    results = parallel.map_in_order(lambda number: number, items())
    assert not consumed
    for number in range(5):
        assert next(results) == number
        assert len(consumed) == number + 3
    results.close()
    assert len(consumed) == 7


def test_error_is_raised_in_its_position_and_ends_the_mapping():
    started = []

    def fail_at_three(number):
        started.append(number)
        if number == 3:
            raise ValueError("three")
        return number

    results = parallel.map_in_order(fail_at_three, range(100))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert max(started) <= 5
    assert list(results) == []


@pytest.mark.parametrize(("batch_size", "expected"), [(1, 1), (2, 1), (3, 2), (128, 64)])
def test_all_threads_together_hold_a_batch(batch_size, expected):
    assert parallel.per_thread(batch_size) == expected
