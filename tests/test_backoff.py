"""Pauses that grow between attempts."""

from __future__ import annotations

import pytest

from edge_tracker.backoff import Backoff


def test_pauses_double_up_to_the_limit():
    backoff = Backoff(0.5, 3.0)
    assert [backoff.next() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_after_a_reset_they_start_again():
    backoff = Backoff(1.0, 60.0)
    for _ in range(4):
        backoff.next()
    backoff.reset()
    assert [backoff.next(), backoff.next()] == [1.0, 2.0]


def test_a_first_pause_above_the_limit_is_kept_once():
    backoff = Backoff(8.0, 2.0)
    assert [backoff.next() for _ in range(3)] == [8.0, 2.0, 2.0]


@pytest.mark.parametrize(("number", "factor"), [(0.0, 0.8), (0.5, 1.0), (0.75, 1.1)])
def test_pauses_are_scattered_and_the_scatter_does_not_add_up(number, factor):
    backoff = Backoff(1.0, 60.0, scatter=(0.8, 1.2), random=lambda: number)
    assert [backoff.next() for _ in range(3)] == pytest.approx([factor, 2 * factor, 4 * factor])


def test_scattered_pauses_keep_within_their_bounds_and_differ():
    backoffs = [Backoff(1.0, 60.0, scatter=(0.5, 1.0)) for _ in range(100)]
    pauses = [backoff.next() for backoff in backoffs]
    assert 0.5 <= min(pauses) < max(pauses) < 1.0
