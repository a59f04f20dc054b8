"""Patterns of paths, as in a `.gitignore`, over the bytes of names: as regular expressions, and as automata to compare.

`*.tmp` is a name at any depth, `/a/b` or `a/b` a path from the top of the area, `a/` a folder; `?` and `[a-z]` are one
byte, `*` any within a name, `**` any folders; `\\*` is the star itself and `\\xff` a byte. Who matches a folder matches
all that is in it. Paths are relative to the area; a folder's path ends with a slash when it is matched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SLASH = ord("/")
ANY_BYTE = frozenset(range(1, 256))
IN_A_NAME = ANY_BYTE - {SLASH}
# More of them make matching slow for names that were chosen to make it slow.
FOLDER_STARS_MAX = 2

State = int


@dataclass(frozen=True, slots=True)
class One:
    """One byte out of some."""

    of: frozenset[int]


@dataclass(frozen=True, slots=True)
class Star:
    """Any number of bytes of a name, none too."""


@dataclass(frozen=True, slots=True)
class Folders:
    """Any number of whole folders with their slashes, none too."""


@dataclass(frozen=True, slots=True)
class Inside:
    """All that is in a folder: at least one byte."""


Item = One | Star | Folders | Inside


class PatternError(ValueError):
    """A pattern that means nothing; the sentence says why."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """A parsed pattern: `items` match a path or a folder above it; `folder_only`: only a folder above it."""

    text: str
    items: tuple[Item, ...]
    folder_only: bool

    @property
    def is_everything(self) -> bool:
        """Whether every path matches."""
        return self.items == (Inside(),) and not self.folder_only

    def regex(self) -> bytes:
        """Return the regular expression that matches the whole of a path's bytes."""
        parts = [_regex(name) for name in _names(self.items)]
        return b"".join(parts) + (b"/.*" if self.folder_only else b"(?:/.*)?")


def parse(text: str) -> Pattern:
    """Parse a pattern; raises PatternError."""
    if not text or text in ("/", "!"):
        raise PatternError("a pattern is empty")
    if text.startswith("!"):
        raise PatternError(f"{text!r}: what is left out stands under not_paths (\\! is the sign itself)")
    items = _split(text)
    folder_only = items[-1] == One(frozenset({SLASH}))
    if folder_only:
        items.pop()
    slash = One(frozenset({SLASH}))
    anchored = slash in items
    if items and items[0] == slash:
        items.pop(0)
    names: list[list[Item]] = [[]]
    for item in items:
        if item == slash:
            names.append([])
        else:
            names[-1].append(item)
    if not all(names):
        raise PatternError(f"{text!r}: there is no name between two slashes")
    return Pattern(text, tuple(_join(text, names, anchored=anchored)), folder_only)


def _join(text: str, names: list[list[Item]], *, anchored: bool) -> list[Item]:
    """Put the names together again, two stars that are a name of their own being folders."""
    joined: list[Item] = []
    deep = [Star(), Star()]
    if not anchored and names != [deep]:
        joined.append(Folders())
    dot = One(frozenset(b"."))
    for number, name in enumerate(names, 1):
        if name in ([dot], [dot, dot]):
            raise PatternError(f"{text!r}: . and .. are no names of files")
        last = number == len(names)
        if name == deep:
            if not (joined and joined[-1] == Folders() and not last):
                joined.append(Inside() if last else Folders())
            continue
        joined += _shortened(name)
        if not last:
            joined.append(One(frozenset({SLASH})))
    if joined.count(Folders()) > FOLDER_STARS_MAX:
        raise PatternError(f"{text!r}: ** may stand {FOLDER_STARS_MAX} times in a pattern")
    return joined


def _shortened(name: list[Item]) -> list[Item]:
    """Leave out a star behind a star. No name is empty: a/* does not take the folder a, whose path ends in a slash."""
    if all(item == Star() for item in name):
        return [One(IN_A_NAME), Star()]
    return [item for number, item in enumerate(name) if item != Star() or name[number - 1 : number] != [Star()]]


def _split(text: str) -> list[Item]:
    """Cut the text into items; a slash is an item of its own."""
    raw = text.encode("utf-8", "surrogateescape")
    items: list[Item] = []
    at = 0
    while at < len(raw):
        byte = raw[at : at + 1]
        if byte == b"*":
            items.append(Star())
            at += 1
        elif byte == b"?":
            items.append(One(IN_A_NAME))
            at += 1
        elif byte == b"[":
            item, at = _bracket(text, raw, at + 1)
            items.append(item)
        else:
            literal, at = _literal(text, raw, at)
            items.append(One(frozenset({literal})))
    return items


def _literal(text: str, raw: bytes, at: int) -> tuple[int, int]:
    """Read one byte, escaped or not; returns it, and where to go on."""
    if raw[at : at + 1] != b"\\":
        literal, after = raw[at], at + 1
    elif hexadecimal := re.compile(rb"\\x([0-9a-fA-F]{2})").match(raw, at):
        literal, after = int(hexadecimal[1], 16), hexadecimal.end()
        if literal == SLASH:
            raise PatternError(f"{text!r}: no name has a slash in it")
    elif at + 1 < len(raw):
        literal, after = raw[at + 1], at + 2
    else:
        raise PatternError(f"{text!r}: ends with a backslash")
    if literal == 0:
        raise PatternError(f"{text!r}: no name has a zero byte in it")
    return literal, after


def _bracket(text: str, raw: bytes, at: int) -> tuple[One, int]:
    """Read a set of bytes from behind its opening bracket."""
    inverted = raw[at : at + 1] in (b"!", b"^")
    at += inverted
    chosen: set[int] = set()
    first = True
    while raw[at : at + 1] != b"]" or first:
        first = False
        if at >= len(raw):
            raise PatternError(f"{text!r}: a bracket is not closed")
        low, at = _literal(text, raw, at)
        high = low
        if raw[at : at + 1] == b"-" and raw[at + 1 : at + 2] not in (b"]", b""):
            high, at = _literal(text, raw, at + 1)
        chosen.update(range(low, high + 1))
    of = (IN_A_NAME - chosen) if inverted else (IN_A_NAME & chosen)
    if not of:
        raise PatternError(f"{text!r}: a bracket has nothing in it")
    return One(frozenset(of)), at + 1


def _names(items: tuple[Item, ...]) -> list[list[Item]]:
    """Cut items behind each slash and each run of folders."""
    names: list[list[Item]] = [[]]
    for item in items:
        names[-1].append(item)
        if item in (Folders(), One(frozenset({SLASH}))):
            names.append([])
    return [name for name in names if name]


def _regex(name: list[Item]) -> bytes:
    """Return the expression of one name. A star followed by another takes as little as it can and never tries again:
    the first place fits whenever any fits, and hostile names cost no more than their length."""
    pieces: list[bytes] = [b""]
    for item in name:
        if isinstance(item, Star):
            pieces.append(b"")
        elif isinstance(item, One):
            pieces[-1] += _class(item.of)
        else:
            pieces[-1] += b"(?:[^/]+/)*" if isinstance(item, Folders) else b"[^/].*"
    first, *starred = pieces
    if not starred:
        return first
    return first + b"".join(b"(?>[^/]*?%s)" % piece for piece in starred[:-1]) + b"[^/]*" + starred[-1]


def _class(of: frozenset[int]) -> bytes:
    if len(of) == 1:
        return b"\\x%02x" % next(iter(of))
    if of == IN_A_NAME:
        return b"[^/]"
    return b"[" + b"".join(b"\\x%02x" % byte for byte in sorted(of)) + b"]"


class Automaton:
    """The union of patterns as a nondeterministic automaton over bytes, to be run a byte at a time.

    A set of states says what was read so far: `EVERYTHING` when a folder above matched, so that all else does too.
    """

    EVERYTHING = frozenset({-1})
    NOTHING: frozenset[State] = frozenset()

    def __init__(self, patterns: tuple[Pattern, ...]) -> None:
        """Number the states: one before each item and one behind the last; inside of folders one more each."""
        self._steps: list[list[tuple[frozenset[int], State]]] = []
        self._free: list[list[State]] = []
        self._complete: set[State] = set()
        self._whole: set[State] = set()
        starts = [self._add(pattern) for pattern in patterns]
        self.start = self._close(frozenset(starts))

    def _state(self) -> State:
        self._steps.append([])
        self._free.append([])
        return len(self._steps) - 1

    def _add(self, pattern: Pattern) -> State:
        start = here = self._state()
        for item in pattern.items:
            after = self._state()
            if isinstance(item, One):
                self._steps[here].append((item.of, after))
            elif isinstance(item, Inside):
                self._steps[here].append((IN_A_NAME, after))
                self._steps[after].append((ANY_BYTE, after))
            else:
                self._free[here].append(after)
                if isinstance(item, Star):
                    self._steps[here].append((IN_A_NAME, here))
                else:
                    within = self._state()
                    self._steps[here].append((IN_A_NAME, within))
                    self._steps[within] += [(IN_A_NAME, within), (frozenset({SLASH}), here)]
            here = after
        self._whole.add(here)
        if not pattern.folder_only:
            self._complete.add(here)
        return start

    def _close(self, states: frozenset[State]) -> frozenset[State]:
        found, todo = set(states), list(states)
        while todo:
            for after in self._free[todo.pop()]:
                if after not in found:
                    found.add(after)
                    todo.append(after)
        return frozenset(found)

    def step(self, states: frozenset[State], byte: int) -> frozenset[State]:
        """Read one more byte."""
        if states == self.EVERYTHING:
            return states
        if byte == SLASH and states & self._whole:
            return self.EVERYTHING
        return self._close(frozenset(after for state in states for of, after in self._steps[state] if byte in of))

    def accepts(self, states: frozenset[State]) -> bool:
        """Say whether what was read is the path of a file that matches."""
        return states == self.EVERYTHING or bool(states & self._complete)

    def sets(self) -> set[frozenset[int]]:
        """Return the sets of bytes that are told apart."""
        return {of for steps in self._steps for of, _after in steps}
