"""Patterns match what a plain reading of them matches, over any bytes, and are compared exactly."""

from __future__ import annotations

import re
import subprocess
import time
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocations.policy.patterns import Automaton, PatternError, parse
from allocations.storage.purge.rules import Matcher


def plainly(pattern: str, path: bytes) -> bool:
    """Match by the words of the documentation: recursion over names, and over their bytes. No escapes or brackets."""
    folder_only = pattern.endswith("/")
    body = pattern.rstrip("/") if folder_only else pattern
    names = body.lstrip("/").split("/")
    if "/" not in body and names != ["**"]:
        names = ["**", *names]
    is_folder = path.endswith(b"/")
    parts = path.rstrip(b"/").split(b"/")
    return any(
        names_match(names, parts[:end]) and (not folder_only or end < len(parts) or is_folder)
        for end in range(1, len(parts) + 1)
    )


def names_match(names: list[str], parts: list[bytes]) -> bool:
    if not names:
        return not parts
    if names == ["**"]:
        return bool(parts)
    if names[0] == "**":
        return any(names_match(names[1:], parts[skipped:]) for skipped in range(len(parts) + 1))
    return bool(parts) and name_matches(names[0].encode(), parts[0]) and names_match(names[1:], parts[1:])


def name_matches(name: bytes, part: bytes) -> bool:
    if not name:
        return not part
    if name[:1] == b"*":
        return any(name_matches(name[1:], part[skipped:]) for skipped in range(len(part) + 1))
    return bool(part) and name[:1] in (b"?", part[:1]) and name_matches(name[1:], part[1:])


PATTERNS = st.builds(
    lambda start, names, end: start + "/".join(names) + end,
    st.sampled_from(["", "/"]),
    st.lists(st.one_of(st.just("**"), st.text("ab*?", min_size=1, max_size=4)), min_size=1, max_size=4),
    st.sampled_from(["", "/"]),
).filter(lambda pattern: re.search(r"\*\*.*\*\*.*\*\*", pattern) is None)
PATHS = st.builds(
    lambda names, end: b"/".join(names) + end,
    st.lists(st.text("ab\n", min_size=1, max_size=4).map(str.encode), min_size=1, max_size=5),
    st.sampled_from([b"", b"/"]),
)


@settings(max_examples=1500, deadline=None)
@given(pattern=PATTERNS, path=PATHS)
def test_a_pattern_matches_what_its_words_say(pattern, path):
    matcher = Matcher([parse(pattern)])
    expected = plainly(pattern, path)
    if path.endswith(b"/"):
        assert matcher.takes_folder(path) == expected
        return
    folder, slash, _name = path.rpartition(b"/")
    found = matcher.takes_folder(folder + slash) or matcher.takes_file(path)
    assert found == expected


@settings(max_examples=700, deadline=None)
@given(patterns=st.lists(PATTERNS, min_size=1, max_size=3), path=PATHS.filter(lambda path: not path.endswith(b"/")))
def test_an_automaton_accepts_what_the_expressions_match(patterns, path):
    parsed = tuple(parse(pattern) for pattern in patterns)
    automaton = Automaton(parsed)
    states = automaton.start
    for byte in path:
        states = automaton.step(states, byte)
    expected = any(re.compile(one.regex(), re.DOTALL).fullmatch(path) for one in parsed)
    assert automaton.accepts(states) == expected


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("core", [b"core", b"a/core", b"core/in"], [b"cores", b"score"]),
        ("/core", [b"core", b"core/in"], [b"a/core"]),
        ("[!a-c]x", [b"dx", b"\xffx"], [b"ax", b"/x"]),
        ("[]-]", [b"]", b"-"], [b"a"]),
        (r"\xff\xFE*", [b"\xff\xfe", b"\xff\xfe!"], [b"\xff"]),
        (r"\*", [b"*"], [b"a"]),
        ("a/**", [b"a/b", b"a/b/c"], [b"a", b"b/a/c"]),
        ("a/*", [b"a/b", b"a/b/", b"a/b/c"], [b"a", b"a/", b"b/a/c"]),
        ("**/a/***", [b"a/b", b"c/a/b/"], [b"a/", b"c/a/"]),
        ("é?", ["éa".encode(), b"x/" + "éb".encode()], ["é".encode()]),
    ],
)
def test_brackets_escapes_and_bytes(pattern, matching, other):
    regex = re.compile(parse(pattern).regex(), re.DOTALL)
    assert [path for path in matching if not regex.fullmatch(path)] == []
    assert [path for path in other if regex.fullmatch(path)] == []


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("", "empty"),
        ("!a", "not_paths"),
        ("a//b", "two slashes"),
        ("a/../b", "no names of files"),
        ("[a", "not closed"),
        ("[/]", "nothing in it"),
        ("a\\", "backslash"),
        (r"\x2f", "slash"),
        (r"\x00", "zero"),
        ("/**/a/**/b/**/c", "times"),
    ],
)
def test_a_pattern_that_means_nothing_is_refused(pattern, why):
    with pytest.raises(PatternError, match=why):
        parse(pattern)


def test_hostile_names_do_not_make_matching_slow():
    regex = re.compile(parse("*a*a*a*a*a*a*a*b").regex(), re.DOTALL)
    before = time.process_time()
    for _ in range(100):
        assert not regex.fullmatch(b"a" * 255)
    assert time.process_time() - before < 0.5


def test_as_git_reads_them(tmp_path):
    """Every short pattern and path: git's own reading, where folders above a path are ignored with all in them."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    patterns = ["a", "/a", "a/", "a/b", "*a", "a*", "**/b", "a/**", "a/**/b", "?", "[ab]", "/*/b", "b/**/a/"]
    paths = ["/".join(parts) for length in (1, 2, 3) for parts in product(["a", "b", "ab"], repeat=length)]
    for pattern in patterns:
        (tmp_path / ".gitignore").write_text(f"{pattern}\n")
        ignored = subprocess.run(
            ["git", "-C", str(tmp_path), "check-ignore", "--no-index", "--stdin"],
            input="\n".join(paths),
            capture_output=True,
            text=True,
            check=False,
        ).stdout.split()
        regex = re.compile(parse(pattern).regex(), re.DOTALL)
        assert {path for path in paths if regex.fullmatch(path.encode())} == set(ignored), pattern
