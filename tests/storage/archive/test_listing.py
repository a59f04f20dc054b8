"""Listing what is in an archive: a page at a time, only so much looked through at once, never less than there is."""

from __future__ import annotations

from contextlib import nullcontext
from io import BytesIO
from typing import TYPE_CHECKING, cast

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from allocations.storage.archive.format import LINE_BYTES, Line
from allocations.storage.archive.members import DamagedError
from allocations.storage.archive.stores import AbsentError
from allocations.storage.listing import list_lines, open_archive
from allocations.storage.paths import to_shown

if TYPE_CHECKING:
    from pathlib import Path

    from allocations.storage.archive.stores import Store


class _Manifest:
    """A store with nothing but a manifest of these bytes."""

    def __init__(self, content: bytes) -> None:
        self._packed = zstandard.ZstdCompressor().compress(content)

    def read(self, _name, _start=0, _end=None):
        return nullcontext(BytesIO(self._packed))

    def size(self, _name):
        return len(self._packed)

    def create(self, _name):
        raise AssertionError("a list writes nothing")


def manifest(content: bytes) -> Store:
    return cast("Store", _Manifest(content))


NAMES = st.text(st.sampled_from("aAbß\n\u202e\udce9\\"), min_size=1, max_size=5)


@given(
    names=st.lists(st.tuples(NAMES, st.booleans()), max_size=12),
    wanted=st.text(st.sampled_from("aAbß\\xe9"), max_size=3),
    count_max=st.integers(1, 5),
    looked_max=st.integers(1, 5),
)
def test_the_pages_together_are_all_that_is_looked_for(
    names: list[tuple[str, bool]], wanted: str, count_max: int, looked_max: int
) -> None:
    lines = [Line(path=name, type="folder", above=above) for name, above in names]
    store = manifest(b"".join(line.to_json() for line in lines))
    found: list[Line] = []
    start = 0
    while True:
        page = list_lines(store, wanted, start, count_max, looked_max)
        assert len(page.lines) <= count_max
        found += page.lines
        if page.following is None:
            break
        assert start < page.following <= start + looked_max, "it goes on, and not for long"
        start = page.following
    assert found == [line for line in lines if not line.above and wanted.casefold() in to_shown(line.path).casefold()]


@pytest.mark.parametrize(
    "content", [b"{}\n", b"[1]\n", b'{"path":"../a","type":"file"}\n', b"not json\n", b'{"path":"a","type":"file"}']
)
@pytest.mark.parametrize("wanted", ["", "a"])
def test_a_damaged_manifest_is_told(content: bytes, wanted: str) -> None:
    with pytest.raises(DamagedError):
        list_lines(manifest(content), wanted, 0, 9)


def test_a_line_without_an_end_is_not_kept() -> None:
    with pytest.raises(DamagedError, match="too long"):
        list_lines(manifest(b"x" * (LINE_BYTES * 2)), "", 0, 9)


def test_reading_makes_no_folder(tmp_path: Path) -> None:
    place = tmp_path / "none"
    with pytest.raises(AbsentError):
        open_archive(str(place))
    assert not place.exists()
