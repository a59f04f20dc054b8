"""The fields of a form for a notebook's parameters: made from their types and defaults, read back as values."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from allocations.errors import AllocationsError, InvalidInputError
from allocations.runs.notebook_parameters import ParameterKind
from allocations.web.forms import to_parameter_lines, to_value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from allocations.runs.notebook_parameters import NotebookParameters, ParameterView

PREFIX = "p-"
TEXT_LENGTH_MAX = 20_000
# A form may have no more fields than `session.FIELDS_MAX`.
FIELDS_MAX = 200

_TAKES = {
    ParameterKind.BOOLEAN: "true or false",
    ParameterKind.WHOLE: "a whole number",
    ParameterKind.NUMBER: "a number",
    ParameterKind.TEXT: "text",
    ParameterKind.LIST: "a list as JSON",
    ParameterKind.MAPPING: "a mapping as JSON",
    ParameterKind.ANY: "a number, true or false, null, text, or a list or mapping as JSON",
}
_EXAMPLES = {
    ParameterKind.BOOLEAN: "Choose true or false.",
    ParameterKind.WHOLE: "Write it in digits, like 100 or -5.",
    ParameterKind.NUMBER: "Write it like 0.5, 100 or 1e-7.",
    ParameterKind.LIST: 'Write it like ["F158", 2.5] or [].',
    ParameterKind.MAPPING: 'Write it like {"band": "F158"} or {}.',
    ParameterKind.ANY: "Put text with special characters in quotes.",
}


class FieldsError(AllocationsError):
    """Fields of a form hold what cannot be taken; `faults` says of each, by its id, what is wrong."""

    code = "invalid_input"
    status = 422
    title = "The input is not valid"

    def __init__(self, faults: Mapping[str, str]) -> None:
        many = len(faults) > 1
        super().__init__(
            f"{len(faults)} fields need other values." if many else "One field needs another value.",
            "Each says below what is wrong." if many else "It says below what is wrong.",
        )
        self.faults = faults


@dataclass(frozen=True, slots=True)
class ParameterField:
    """A field as it is shown; `takes`: what may be written there, in words; `default`: the notebook's own, as spelt."""

    id: str
    name: str
    kind: ParameterKind
    nullable: bool
    value: str
    takes: str
    default: str
    help: str


def has_fields(parameters: NotebookParameters) -> bool:
    """Say whether the parameters can be asked for by fields, and not only as lines of text."""
    return parameters.known and len(parameters.parameters) <= FIELDS_MAX


def fields_of(
    parameters: NotebookParameters, values: Mapping[str, Any], written: Mapping[str, str] | None = None
) -> list[ParameterField]:
    """Return a field for each parameter: with what was written there, else the value given, else the default."""
    return [_field(one, values, written) for one in parameters.parameters] if has_fields(parameters) else []


def read_fields(parameters: NotebookParameters, written: Mapping[str, str]) -> dict[str, Any]:
    """Return the values that differ from the notebook's own; FieldsError when one is not of its type.

    `written`: the form's fields by id. A box that is not ticked is in no form: a boolean without a field is false.
    """
    values: dict[str, Any] = {}
    faults: dict[str, str] = {}
    for one in parameters.parameters if has_fields(parameters) else []:
        text = written.get(f"{PREFIX}{one.name}")
        if text is None and one.kind is not ParameterKind.BOOLEAN:
            continue
        try:
            given, value = _read(one, text or "")
        except InvalidInputError as error:
            faults[f"{PREFIX}{one.name}"] = f"{error.detail} {error.remedy}"
            continue
        if given and not (one.has_default and json.dumps(value) == json.dumps(one.default)):
            values[one.name] = value
    if faults:
        raise FieldsError(faults)
    return values


def _field(one: ParameterView, values: Mapping[str, Any], written: Mapping[str, str] | None) -> ParameterField:
    id_ = f"{PREFIX}{one.name}"
    if written is not None:
        text = written.get(id_, "")
    elif one.name in values:
        text = _spelt(one, values[one.name])
    else:
        text = _spelt(one, one.default) if one.has_default else ""
    takes = _TAKES[one.kind]
    if one.nullable and one.kind is not ParameterKind.ANY:
        takes += ", or nothing"
    return ParameterField(id_, one.name, one.kind, one.nullable, text, takes, one.source, one.help)


def _spelt(one: ParameterView, value: Any) -> str:
    """Write a value as `_read` reads it."""
    if value is None:
        # Nothing at all, unless that would be taken for the default of a parameter that takes anything.
        return "null" if one.kind is ParameterKind.ANY and not (one.has_default and one.default is None) else ""
    if one.kind is ParameterKind.TEXT and isinstance(value, str):
        return value
    if one.kind is ParameterKind.ANY and not isinstance(value, list | dict):
        lines, left_out = to_parameter_lines({"value": value})
        return "" if left_out else lines.partition("=")[2].strip()
    return json.dumps(value, ensure_ascii=False)


def _read(one: ParameterView, text: str) -> tuple[bool, Any]:
    """Return whether a value is given, and it; InvalidInputError when it is not what the parameter takes."""
    if len(text) > TEXT_LENGTH_MAX:
        raise InvalidInputError(f"This is longer than {TEXT_LENGTH_MAX:,} characters.", "Shorten it.")
    if one.kind is ParameterKind.BOOLEAN:
        return (True, text == "true") if text or not one.nullable else (True, None)
    if one.kind is ParameterKind.TEXT:
        return True, None if one.nullable and not text else text
    if not text.strip():
        # Nothing written: None where that is meant, else the notebook's own default counts.
        return (one.nullable and one.kind is not ParameterKind.ANY), None
    try:
        value = _READERS.get(one.kind, _json)(text.strip())
    except (ValueError, RecursionError, InvalidInputError):
        raise _wrong(one.kind) from None
    if not _is_of(one.kind, value):
        raise _wrong(one.kind)
    return True, value


def _number(text: str) -> int | float:
    if not _NUMBER.fullmatch(text):
        raise ValueError(text)
    value = float(text) if set(text) & set(".eE") else int(text)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(text)
    return value


def _json(text: str) -> Any:
    value = json.loads(text, parse_constant=_refuse)
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    return value


def _anything(text: str) -> Any:
    return _json(text) if text[:1] in ("{", "[") else to_value(text, "The value")


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_READERS: dict[ParameterKind, Callable[[str], Any]] = {
    ParameterKind.WHOLE: _number,
    ParameterKind.NUMBER: _number,
    ParameterKind.ANY: _anything,
}


def _is_of(kind: ParameterKind, value: Any) -> bool:
    if kind is ParameterKind.ANY:
        return True
    if kind is ParameterKind.LIST:
        return isinstance(value, list)
    if kind is ParameterKind.MAPPING:
        return isinstance(value, dict)
    return kind is ParameterKind.NUMBER or isinstance(value, int) or float(value).is_integer()


def _wrong(kind: ParameterKind) -> InvalidInputError:
    return InvalidInputError(f"This is not {_TAKES[kind]}.", _EXAMPLES.get(kind, ""))
