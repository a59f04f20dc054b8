"""The second look leaves what policy, exemptions and readers have taken out since the plan."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocations.clock import MS_PER_DAY
from allocations.storage.purge.planfile import Planned
from allocations.storage.purge.rules import NS_PER_DAY, Exemption
from allocations.storage.purge.selecting import (
    AGE_SINCE,
    EXEMPT_SINCE,
    KEPT_SINCE,
    NO_RULE_SINCE,
    READ_SINCE,
    Decided,
    LastReads,
)
from allocations.storage.tree.beneath import Root
from tests.storage.test_plan import NOW_MS, rules_of

if TYPE_CHECKING:
    from pathlib import Path


def planned(path: str, *, days: float = 60, rule: str = "r0", kind: str = "file", why: str = "modified") -> Planned:
    """An entry that its rule took because of something so many days ago."""
    # Of what is known by the day only, the plan has taken the margin of a day off again.
    since = datetime.fromtimestamp(NOW_MS / 1000, UTC) - timedelta(days=days + (why != "modified"))
    mtime_ns = NOW_MS * 1_000_000 - int((days if why == "modified" else 1000) * NS_PER_DAY)
    return Planned(path, kind, 1, 2, 3, mtime_ns, mtime_ns, 0, rule, f"{why} {since:%Y-%m-%d}", 3)


@pytest.mark.parametrize(
    ("path", "kind", "how", "why"),
    [
        ("a/b", "file", {}, None),
        ("a", "folder", {}, None),
        ("a/b", "file", {"exemptions": [Exemption("a", NOW_MS + 1)]}, EXEMPT_SINCE),
        ("a/b", "file", {"exemptions": [Exemption("a/b", NOW_MS + 1)]}, EXEMPT_SINCE),
        ("a/b", "file", {"exemptions": [Exemption("", NOW_MS + 1)]}, EXEMPT_SINCE),
        ("a/b", "file", {"exemptions": [Exemption("a/bc", NOW_MS + 1)]}, None),
        ("a/b/c", "folder", {"exemptions": [Exemption("a/b", NOW_MS + 1)]}, EXEMPT_SINCE),
        ("a/b", "file", {"kept": ("/a/",)}, KEPT_SINCE),
        ("a", "folder", {"kept": ("/a/",)}, KEPT_SINCE),
        ("a/b", "file", {"state": "archived"}, NO_RULE_SINCE),
    ],
)
def test_what_was_decided_since_stays(path: str, kind: str, how: dict[str, Any], why: str | None) -> None:
    decided = Decided(rules_of({"age_days": 14}, **how), {"r0": 14})
    assert decided.why_left(planned(path, kind=kind)) == why


def test_without_rules_everything_stays() -> None:
    assert Decided(None, {}).why_left(planned("a")) == NO_RULE_SINCE


def test_a_pattern_that_takes_less_now_leaves_the_rest() -> None:
    decided = Decided(rules_of({"age_days": 14, "paths": ["*.tmp"]}), {"r0": 14})
    assert decided.why_left(planned("a/b.tmp")) is None
    assert decided.why_left(planned("a/b.fits")) == NO_RULE_SINCE


@given(
    beyond_hours=st.integers(-3 * 24, 5 * 24),
    before=st.integers(10, 15),
    now=st.integers(10, 90),
    why=st.sampled_from(["modified", "arrived", "read"]),
)
def test_what_may_be_too_young_for_a_longer_age_stays(beyond_hours: int, before: int, now: int, why: str) -> None:
    days = now + beyond_hours / 24
    left = Decided(rules_of({"age_days": now}), {"r0": before}).why_left(planned("a/b", days=days, why=why))
    assert left in {None, AGE_SINCE}
    if now <= before:
        assert left is None
    elif days < now:
        assert left == AGE_SINCE
    elif days >= now + 3:
        # The plan tells the day, and takes margins of a day off.
        assert left is None


def test_what_was_read_since_stays(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_text("x")
    os.utime(tmp_path / "a" / "b", ns=(NOW_MS * 1_000_000, 0))
    with Root(str(tmp_path)) as root:
        with LastReads(root, NOW_MS - MS_PER_DAY) as reads:
            assert reads.why_left(planned("a/b")) == READ_SINCE
            # What is not there is told by who archives.
            assert reads.why_left(planned("a/c")) is None
            assert reads.why_left(planned("none/b")) is None
            assert reads.why_left(planned("a/b")) == READ_SINCE
        with LastReads(root, NOW_MS) as reads:
            assert reads.why_left(planned("a/b")) is None
