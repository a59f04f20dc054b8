"""Paths as people read and type them: nothing hidden, and the same path when read back."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocations.storage.paths import from_shown, to_shown

HOSTILE = {
    "plain/name.fits": "plain/name.fits",
    "Grüße/数据": "Grüße/数据",
    "two\nlines\t.txt": "two\\x0alines\\x09.txt",
    "\u202egnp.exe": "\\u202egnp.exe",
    "zero\u200bwidth": "zero\\u200bwidth",
    "next\u0085line": "next\\u0085line",
    os.fsdecode(b"caf\xe9"): "caf\\xe9",
    "back\\x0aslash": "back\\\\x0aslash",
    "\U000e0041tag": "\\U000e0041tag",
}


@pytest.mark.parametrize(("path", "shown"), HOSTILE.items())
def test_what_would_hide_or_turn_stands_as_an_escape(path: str, shown: str) -> None:
    assert to_shown(path) == shown
    assert from_shown(shown) == path


@given(st.binary().map(lambda name: os.fsdecode(name.replace(b"\0", b"/"))))
def test_every_path_is_read_back_as_it_was(path: str) -> None:
    shown = to_shown(path)
    assert from_shown(shown) == path
    assert shown.isprintable()
    shown.encode()


@given(st.text())
def test_a_text_is_a_path_or_is_refused(text: str) -> None:
    try:
        path = from_shown(text)
    except ValueError:
        return
    os.fsencode(path)
    assert from_shown(to_shown(path)) == path


@pytest.mark.parametrize("text", ["\\", "a\\", "\\q", "\\xg0", "\\ud800", "\\U00110000", "\\x00", "\ud800"])
def test_what_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"path|backslash"):
        from_shown(text)
