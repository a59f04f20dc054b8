"""Reads which parameters a notebook takes from its cell tagged `parameters`, and checks the values given for them.

Nothing of the notebook is executed: the cell is parsed, and only literals are read. papermill reads one assignment a
line by a pattern; names that it finds are found here too, with a type and a default as JSON where there is one.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from allocations.errors import AllocationsError
from allocations.leases.views import View

TAG = "parameters"
# Far more than anybody writes by hand; what is longer is not parsed.
SOURCE_LENGTH_MAX = 100_000
TYPE_COMMENT = "type:"


class InvalidParametersError(AllocationsError):
    """Values do not fit the notebook; `faults` says of each name what is wrong."""

    code = "invalid_parameters"
    status = 422
    title = "The parameters do not fit the notebook"

    def __init__(self, detail: str, remedy: str, faults: Mapping[str, str]) -> None:
        super().__init__(detail, remedy)
        self.faults = faults


class ParameterKind(StrEnum):
    """What a parameter takes, by the name of the Python type; `any` where the cell does not say."""

    BOOLEAN = "bool"
    WHOLE = "int"
    NUMBER = "float"
    TEXT = "str"
    LIST = "list"
    MAPPING = "dict"
    ANY = "any"


class ParameterView(View):
    """A parameter: what it takes, and what it is when none is given.

    `default` is None as well where the default is None (`nullable` then) and where it is more than a literal
    (`has_default` is false then); `source` is the default as the cell spells it.
    """

    name: str
    kind: ParameterKind
    nullable: bool
    has_default: bool
    default: Any
    source: str
    help: str


class NotebookParameters(View):
    """The parameters of a notebook in the order of its cell.

    `known`: whether they could be read. They cannot in a notebook of another language than Python, or when the cell is
    not Python that can be parsed; what is given for one is then checked when it runs.
    """

    language: str
    known: bool
    has_cell: bool
    parameters: list[ParameterView]


@dataclass(frozen=True, slots=True)
class _Type:
    """What an annotation allows."""

    kind: ParameterKind
    nullable: bool


_ANY = _Type(ParameterKind.ANY, nullable=False)
_NONE = _Type(ParameterKind.ANY, nullable=True)
_NAMED = {
    "bool": ParameterKind.BOOLEAN,
    "int": ParameterKind.WHOLE,
    "float": ParameterKind.NUMBER,
    "str": ParameterKind.TEXT,
    **dict.fromkeys(["list", "List", "tuple", "Tuple", "Sequence", "Iterable"], ParameterKind.LIST),
    **dict.fromkeys(["dict", "Dict", "Mapping"], ParameterKind.MAPPING),
}
_WRAPPERS = ("Optional", "Union")
_TAKES = {
    ParameterKind.BOOLEAN: "true or false",
    ParameterKind.WHOLE: "a whole number",
    ParameterKind.NUMBER: "a number",
    ParameterKind.TEXT: "text",
    ParameterKind.LIST: "a list",
    ParameterKind.MAPPING: "a mapping",
}
_GIVEN = {bool: "true or false", int: "a whole number", float: "a number with a fraction", str: "text"}


def parameters_of(notebook: Mapping[str, Any]) -> NotebookParameters:
    """Return the parameters of a parsed .ipynb, whatever it is made of."""
    metadata = _mapping(notebook.get("metadata"))
    stated = _mapping(metadata.get("language_info")).get("name")
    # As the runner: a notebook that does not say is taken for Python.
    language = str(stated or _mapping(metadata.get("kernelspec")).get("language") or "python")[:40]
    source = _tagged_source(notebook)
    if source is None:
        return NotebookParameters(language=language, known=True, has_cell=False, parameters=[])
    found = _read(source) if language == "python" else None
    return NotebookParameters(language=language, known=found is not None, has_cell=True, parameters=found or [])


def fitting(notebook: NotebookParameters, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values as they are given to the notebook; InvalidParametersError when one does not fit.

    A whole number written with a point (5.0) becomes one where the parameter takes whole numbers.
    """
    if not notebook.known:
        return dict(values)
    by_name = {parameter.name: parameter for parameter in notebook.parameters}
    unknown = sorted(values.keys() - by_name.keys())
    if unknown:
        raise _unknown(notebook, unknown)
    fitted = {name: _as_taken(by_name[name], value) for name, value in values.items()}
    faults = {name: fault for name, value in fitted.items() if (fault := _fault(by_name[name], value))}
    if faults:
        first = by_name[next(iter(faults))]
        raise InvalidParametersError(" ".join(faults.values()), _remedy(first, fitted[first.name]), faults)
    return fitted


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _tagged_source(notebook: Mapping[str, Any]) -> str | None:
    """Return the source of the first cell that is tagged, as papermill finds it; None when there is none."""
    cells = notebook.get("cells")
    for cell in cells if isinstance(cells, list) else []:
        tags = _mapping(_mapping(cell).get("metadata")).get("tags")
        if isinstance(tags, list) and TAG in tags:
            source = cell.get("source", "")
            return "".join(map(str, source)) if isinstance(source, list) else str(source)
    return None


def _read(source: str) -> list[ParameterView] | None:
    statements = _parsed(source)
    if statements is None:
        return None
    lines = source.split("\n")
    found: dict[str, ParameterView] = {}
    for statement in statements:
        comment = _comment_after(lines, statement)
        for name, annotation, value in _assignments(statement):
            found[name] = _parameter(name, annotation, value, comment)
    return list(found.values())


def _parsed(source: str) -> list[ast.stmt] | None:
    """Return the statements of a cell; None when it is not Python. Lines of IPython's own become comments."""
    if len(source) > SOURCE_LENGTH_MAX or source.lstrip().startswith("%%"):
        return None
    for text in (source, "\n".join("#" if line[:1] in ("%", "!", "?") else line for line in source.split("\n"))):
        try:
            return ast.parse(text).body
        # A NUL is a ValueError; what is nested a thousand deep exhausts the parser's stack.
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return None


def _assignments(statement: ast.stmt) -> list[tuple[str, ast.expr | None, ast.expr | None]]:
    """Return (name, annotation, value) of each name that a statement assigns; value None where it has no own."""
    if isinstance(statement, ast.AnnAssign):
        if statement.value is None or not isinstance(statement.target, ast.Name):
            return []
        return [(statement.target.id, statement.annotation, statement.value)]
    if not isinstance(statement, ast.Assign):
        return []
    found: list[tuple[str, ast.expr | None, ast.expr | None]] = []
    for target in statement.targets:
        if isinstance(target, ast.Name):
            found.append((target.id, None, statement.value))
        elif isinstance(target, ast.Tuple | ast.List):
            values: list[ast.expr | None] = [None] * len(target.elts)
            if isinstance(statement.value, ast.Tuple | ast.List) and len(statement.value.elts) == len(values):
                values = list(statement.value.elts)
            found += [
                (one.id, None, value)
                for one, value in zip(target.elts, values, strict=True)
                if isinstance(one, ast.Name)
            ]
    return found


def _comment_after(lines: list[str], statement: ast.stmt) -> str:
    """Return the comment behind a statement, on its last line."""
    # Columns count bytes; a form feed or a lone carriage return may make the parser count other lines than these.
    number, column = (statement.end_lineno or 1) - 1, statement.end_col_offset or 0
    if number >= len(lines):
        return ""
    rest = lines[number].encode(errors="replace")[column:].decode(errors="replace").strip()
    return rest[1:].strip() if rest.startswith("#") else ""


def _parameter(name: str, annotation: ast.expr | None, value: ast.expr | None, comment: str) -> ParameterView:
    told = comment
    if comment.startswith(TYPE_COMMENT):
        stated, _, told = comment.removeprefix(TYPE_COMMENT).strip().partition(" ")
        annotation = annotation or _expression(stated)
    is_json, default = _literal(value)
    allowed = _allowed(annotation) if annotation is not None else _Type(_kind_of(default), nullable=False)
    return ParameterView(
        name=name,
        kind=allowed.kind,
        nullable=allowed.nullable or (is_json and default is None),
        has_default=is_json,
        default=default,
        source=_spelt(value),
        help=told.strip(),
    )


def _literal(value: ast.expr | None) -> tuple[bool, Any]:
    """Return whether a default is a literal that JSON in UTF-8 can say, and its value."""
    if value is None:
        return False, None
    try:
        found = ast.literal_eval(value)
        # Tuples become lists, as the notebook would be given them.
        text = json.dumps(found, allow_nan=False, ensure_ascii=False)
        text.encode()
        plain = json.loads(text)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return False, None
    # Keys that are numbers would have become text.
    return (True, plain) if _as_lists(found) == plain else (False, None)


def _as_lists(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_as_lists(one) for one in value]
    return {key: _as_lists(one) for key, one in value.items()} if isinstance(value, dict) else value


def _spelt(value: ast.expr | None) -> str:
    try:
        text = ast.unparse(value) if value is not None else ""
    except (ValueError, RecursionError):  # a number of more digits than Python spells
        return ""
    # What no answer in UTF-8 could say, half of a surrogate pair, is spelt with a question mark.
    return text.encode(errors="replace").decode()


def _kind_of(value: object) -> ParameterKind:
    kinds = {
        bool: ParameterKind.BOOLEAN,
        int: ParameterKind.WHOLE,
        float: ParameterKind.NUMBER,
        str: ParameterKind.TEXT,
        list: ParameterKind.LIST,
        dict: ParameterKind.MAPPING,
    }
    return kinds.get(type(value), ParameterKind.ANY)


def _expression(text: str) -> ast.expr | None:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _allowed(annotation: ast.expr) -> _Type:
    """Return what an annotation allows; anything where it is none of the types that JSON has."""
    match annotation:
        case ast.Constant(value=None):
            return _NONE
        case ast.Constant(value=str(text)):
            expression = _expression(text)
            return _allowed(expression) if expression is not None else _ANY
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            return _union([left, right])
        case ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name), slice=inner) if name in _WRAPPERS:
            parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            return _union([*parts, ast.Constant(None)] if name == "Optional" else parts)
        case (
            ast.Name(id=name)
            | ast.Attribute(attr=name)
            | ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name))
        ):
            return _Type(_NAMED.get(name, ParameterKind.ANY), nullable=False)
    return _ANY


def _union(parts: list[ast.expr]) -> _Type:
    types = [_allowed(part) for part in parts]
    kinds = {one.kind for one in types if one is not _NONE}
    if kinds == {ParameterKind.WHOLE, ParameterKind.NUMBER}:
        kinds = {ParameterKind.NUMBER}
    kind = next(iter(kinds)) if len(kinds) == 1 else ParameterKind.ANY
    return _Type(kind, nullable=any(one.nullable for one in types))


def _as_taken(parameter: ParameterView, value: Any) -> Any:
    is_whole = isinstance(value, float) and math.isfinite(value) and value.is_integer()
    return int(value) if is_whole and parameter.kind is ParameterKind.WHOLE else value


def _fault(parameter: ParameterView, value: object) -> str | None:
    """Say why a value is not one that a parameter takes; None when it is."""
    given = _kind_of(value)
    if parameter.kind is ParameterKind.ANY or given is parameter.kind:
        return None
    if value is None and parameter.nullable:
        return None
    if parameter.kind is ParameterKind.NUMBER and given is ParameterKind.WHOLE:
        return None
    if value is None:
        said = "nothing (null)"
    else:
        said = _GIVEN.get(type(value), "a list" if isinstance(value, list) else "a mapping")
    return f"{parameter.name} takes {_TAKES[parameter.kind]}; what was given is {said}."


def _remedy(parameter: ParameterView, value: object) -> str:
    name = parameter.name
    if value is None:
        return f"Leave it out, or annotate it in the notebook as `{name}: {parameter.kind} | None`."
    if parameter.kind is ParameterKind.WHOLE and isinstance(value, float):
        return f"Give a whole number, or annotate it in the notebook as `{name}: float`."
    if parameter.kind is ParameterKind.TEXT:
        return "Put the value in quotes to give it as text."
    return f"Give {_TAKES[parameter.kind]}, or annotate the parameter in the notebook with the type that it takes."


def _unknown(notebook: NotebookParameters, unknown: list[str]) -> InvalidParametersError:
    shown = ", ".join(unknown[:10]) + (f" and {len(unknown) - 10} more" if len(unknown) > 10 else "")  # noqa: PLR2004  # as many as one reads
    if not notebook.has_cell:
        detail = f"The notebook takes no parameters, but {shown} came with the run."
        remedy = f"Give the cell that holds the defaults the tag “{TAG}”, or leave the parameters out."
    else:
        names = ", ".join(parameter.name for parameter in notebook.parameters) or "none"
        detail = f"The notebook has no parameter {shown}. Its parameters are: {names}."
        remedy = f"Correct the name, or add it to the cell tagged “{TAG}”."
    faults = {name: f"The notebook has no parameter {name}." for name in unknown}
    return InvalidParametersError(detail, remedy, faults)
