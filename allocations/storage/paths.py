"""Paths as people read and type them: on one line, every character in sight, and the same path again when read back.

What is not printable stands as an escape: a byte that is no UTF-8, and a control of ASCII, as `\\xff`; another
character, such as one that turns the direction of writing, as `\\u202e`; a backslash as two of them.
"""

from __future__ import annotations

import re

_ASCII_END = 0x80
# Python's surrogates for the bytes 80 to ff where these are no UTF-8 (PEP 383).
_FIRST_BYTE, _LAST_BYTE, _BYTE_OFFSET = 0xDC80, 0xDCFF, 0xDC00
_WIDE = 0x10000
_ESCAPE = re.compile(r"\\(?:(\\)|x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|)")
_SURROGATES = range(0xD800, 0xE000)
_CODES_END = 0x110000


def to_shown(path: str) -> str:
    """Return a path, as os.fsdecode makes it, as people read it."""
    return "".join(map(_shown, path))


def from_shown(text: str) -> str:
    """Return the path that a text shows; ValueError where a backslash begins no escape, or for a NUL."""
    path = _ESCAPE.sub(_meant, text)
    if "\0" in path:
        raise ValueError("a path holds no NUL")
    try:
        # Bytes that stand side by side may be UTF-8 together: there is one text for each path.
        return path.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise ValueError("a path holds no half of a character") from error


def in_sight(text: str) -> str:
    """Return a text, of which parts may be escaped already, with whatever is not printable as escapes."""
    return "".join(character if character == "\\" else _shown(character) for character in text)


def _shown(character: str) -> str:
    code = ord(character)
    if character == "\\":
        return "\\\\"
    if character.isprintable():
        return character
    if code < _ASCII_END:
        return f"\\x{code:02x}"
    if _FIRST_BYTE <= code <= _LAST_BYTE:
        return f"\\x{code - _BYTE_OFFSET:02x}"
    return f"\\u{code:04x}" if code < _WIDE else f"\\U{code:08x}"


def _meant(escape: re.Match[str]) -> str:
    backslash, byte, *codes = escape.groups()
    if backslash:
        return backslash
    if byte:
        code = int(byte, 16)
        return chr(code if code < _ASCII_END else code + _BYTE_OFFSET)
    code = int(codes[0] or codes[1] or "-1", 16)
    if code < 0 or code in _SURROGATES or code >= _CODES_END:
        raise ValueError("a backslash stands for itself only when it is doubled")
    return chr(code)
