"""Notebook parameters given as text, on a command line."""

from __future__ import annotations

import re
from typing import Any

import yaml

NOT_JSON = re.compile(r"[-+]?(\.?inf(inity)?|\.?nan)", re.IGNORECASE)


class ParameterError(ValueError):
    """The text is not a value that a notebook can be given; the message says what to write."""


class _CoreLoader(yaml.SafeLoader):
    """YAML with the scalars of its 1.2 core schema.

    YAML 1.1, PyYAML's default, reads the right ascension 12:30:00 as 45000, `no` as false, 010 as 8
    and 1e5 as text; papermill's own command line reads none of them so.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  PyYAML's name


SCALARS = {
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "int": re.compile(r"[-+]?[0-9]+|0x[0-9a-fA-F]+"),
    "float": re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"),
    "null": re.compile(r"null|Null|NULL|None|~"),
}
for _name, _pattern in SCALARS.items():
    _CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"(?:{_pattern.pattern})$"), None)


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    return int(text, 16) if text.startswith("0x") else int(text)


def _construct_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(str(loader.construct_scalar(node)))


_CoreLoader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_CoreLoader.add_constructor("tag:yaml.org,2002:float", _construct_float)


def parse_parameter(text: str) -> Any:
    """The value that `-p name text` gives: a number, true/false, null, a [list], a {mapping}, else the text.

    Quotes keep a number or a word as text. Raises ParameterError for an unfinished list, mapping or
    quotation, and for infinities and NaN, which cannot be sent.
    """
    stripped = text.strip()
    if NOT_JSON.fullmatch(stripped):
        msg = f"{text!r} is not a number that can be sent; to give the word, write '\"{stripped}\"'."
        raise ParameterError(msg)
    if stripped[:1] not in ("[", "{", '"', "'") and not any(p.fullmatch(stripped) for p in SCALARS.values()):
        return text
    try:
        return yaml.load(stripped, Loader=_CoreLoader)  # noqa: S506  a SafeLoader
    except yaml.YAMLError as error:
        msg = f"{text!r} is not a complete list, mapping or quotation: {error}"
        raise ParameterError(msg) from error
