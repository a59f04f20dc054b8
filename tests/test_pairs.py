"""What is said of a difference between pairs is what the sign test allows."""

from __future__ import annotations

import pytest

from benchmarks.pairs import paired_difference


@pytest.mark.parametrize(
    ("count", "rank", "confidence"),
    # The ranks of tables of the sign test, two-sided, 5 %.
    [(1, 1, 0.0), (5, 1, 0.9375), (6, 1, 0.96875), (8, 1, 0.9922), (9, 2, 0.9609), (12, 3, 0.9614), (30, 10, 0.9572)],
)
def test_the_interval_lies_between_the_ranks_of_the_sign_test(count, rank, confidence):
    theirs = [float((7 * number) % count) for number in range(count)]
    ours = [their + number for number, their in enumerate(theirs, start=1)]
    found = paired_difference(ours, theirs)
    assert (found.low, found.high) == (rank, count + 1 - rank)
    assert found.median == (count + 1) / 2
    assert found.confidence == pytest.approx(confidence, abs=1e-4)
