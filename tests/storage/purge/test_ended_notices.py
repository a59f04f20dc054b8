"""Mails about the end of storage are sent while they are true, and not after it came back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from allocations.notify.store import NoticeStore
from allocations.notify.truth import TruthService
from tests.storage.purge.ends import EndedWorld

if TYPE_CHECKING:
    from pathlib import Path

    from tests.allocations.conftest import Bench


@pytest.fixture
def world(bench: Bench, tmp_path: Path) -> EndedWorld:
    """Ann's scratch, which has ended."""
    world = EndedWorld(bench, tmp_path)
    world.term_ends()
    return world


def true_now(world: EndedWorld) -> list[str]:
    """The kinds of notices about her storage that may still be mailed to Ann."""
    store = NoticeStore()
    with world.bench.services.database.write() as connection:
        pending = store.lock_waiting(connection, "ann")
        true = TruthService(notices=store).still_true(connection, pending, world.clock.now_ms())
    return [one.kind.value for one in true if one.kind.value.startswith("storage")]


def test_what_came_back_is_told_and_its_end_is_not_any_more(world: EndedWorld) -> None:
    assert true_now(world) == ["storage ended"]
    world.returns()
    assert true_now(world) == ["storage returned"]
    world.term_ends()
    assert true_now(world) == ["storage ended"], "of the second end only"


def test_every_notice_has_its_words(world: EndedWorld) -> None:
    world.clock.pass_seconds(70 * 86_400)
    world.look()
    with world.bench.services.database.write() as connection:
        told = NoticeStore().lock_waiting(connection, "ann")
        texts = world.bench.services.inbox.texts
        words = texts.words(connection, told, world.clock.now_ms())
    titles = [one.title for one in words if "scratch" in one.title]
    # Nobody looked for seventy days: the archive is put off until they had the thirty that they are told.
    assert [title.split(" of ")[0] for title in titles] == ["Your scratch", "In 30 days all files"]
    assert not any("–" in one.title + one.text for one in words if "scratch" in one.title)
