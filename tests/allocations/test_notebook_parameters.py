"""The parameters of a notebook, read from its own cell: as papermill finds them, typed, and checked before a run."""

from __future__ import annotations

import json
import keyword
from typing import Any

import nbformat
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from papermill.translators import PythonTranslator

from allocations.runs.notebook_parameters import (
    InvalidParametersError,
    NotebookParameters,
    ParameterKind,
    ParameterView,
    fitting,
    parameters_of,
)

ANNOTATIONS = {"int": "int", "float": "float", "str": "str", "bool": "bool", "list": "list", "dict": "dict"}


def notebook(source: Any, **metadata: Any) -> dict[str, Any]:
    cell = {"cell_type": "code", "metadata": {"tags": ["x", "parameters"]}, "source": source}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": [{"source": "a = 0"}, cell]}


def read(source: str) -> dict[str, ParameterView]:
    found = parameters_of(notebook(source))
    assert found.known
    return {parameter.name: parameter for parameter in found.parameters}


@pytest.mark.parametrize(
    ("line", "kind", "nullable", "default"),
    [
        ("n = 5", "int", False, 5),
        ("n = -5", "int", False, -5),
        ("x = 1e-7", "float", False, 1e-7),
        ("x: float = 5", "float", False, 5),
        ("on = True", "bool", False, True),
        ("name = 'a # b'", "str", False, "a # b"),
        ("shape = (4, 4)", "list", False, [4, 4]),
        ("flags = ['a', None]", "list", False, ["a", None]),
        ("options = {'a': {'b': 1}}", "dict", False, {"a": {"b": 1}}),
        ("mask = None", "any", True, None),
        ("mask: str | None = None", "str", True, None),
        ("mask: 'Optional[str]' = 'x'", "str", True, "x"),
        ("depth: typing.Optional[int] = None", "int", True, None),
        ("x: Union[int, float, None] = 1", "float", True, 1),
        ("x: int | str = 1", "any", False, 1),
        ("bands: List[str] = []", "list", False, []),
        ("x = 1  # type: float the width", "float", False, 1),
        ("x: Angle = 5", "any", False, 5),
    ],
)
def test_the_type_is_that_of_the_annotation_or_of_the_default(
    line: str, kind: str, nullable: bool, default: Any
) -> None:
    [parameter] = read(line).values()
    assert (parameter.kind, parameter.nullable, parameter.default) == (kind, nullable, default)
    assert type(parameter.default) is type(default)
    assert parameter.has_default


@pytest.mark.parametrize(
    ("line", "spelt"),
    [
        ("n = 60 * 60", "60 * 60"),
        ("p = Path('a')", "Path('a')"),
        ("b = b'x'", "b'x'"),
        ("s = '\\ud800'", None),
        ("x = 1e999", None),
        ("d = {1: 2}", "{1: 2}"),
        ("d = {'a': {1: 2}}", "{'a': {1: 2}}"),
    ],
)
def test_a_default_that_is_no_value_of_json_is_told_as_the_cell_spells_it(line: str, spelt: str | None) -> None:
    [parameter] = read(line).values()
    assert (parameter.kind, parameter.has_default, parameter.default) == ("any", False, None)
    assert spelt is None or parameter.source == spelt
    parameter.model_dump_json().encode()


def test_what_the_cell_may_hold_beside_single_assignments() -> None:
    found = read(
        "%matplotlib inline\nimport os\na, b = 1, 'x'\nc = d = 2.0\n"
        "names = [  # not this\n    'a',\n]  # which to read\nif a:\n    inner = 1\nx: int\no.y = 1\na = 7\n"
        "e, *f = g()\n"
    )
    assert {name: parameter.kind for name, parameter in found.items()} == {
        "a": "int",
        "b": "str",
        "c": "float",
        "d": "float",
        "names": "list",
        "e": "any",
    }
    assert (found["names"].help, found["a"].default) == ("which to read", 7)


@pytest.mark.parametrize(
    "source",
    ["%%bash\nx=1", "if", "x = \0", "(" * 500, "-" * 90_000 + "1", "1" + "+1" * 50_000, "x = 1\n" * 100_000, "a = '"],
)
def test_what_cannot_be_parsed_is_left_to_the_run(source: str) -> None:
    found = parameters_of(notebook(source))
    assert (found.has_cell, found.parameters) == (True, [])
    if not found.known:
        assert fitting(found, {"anything": 1}) == {"anything": 1}


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"cells": 5},
        {"cells": [5, {"metadata": 5}, {"metadata": {"tags": "parameters"}}]},
        {"cells": [], "metadata": {"kernelspec": 5, "language_info": []}},
        {"cells": [{"metadata": {"tags": ["parameters"]}}]},
        {"cells": [{"metadata": {"tags": ["parameters"]}, "source": [1, None]}]},
    ],
)
def test_an_odd_notebook_has_no_parameters(odd: dict[str, Any]) -> None:
    assert parameters_of(odd).parameters == []


def test_other_languages_are_checked_when_they_run() -> None:
    found = parameters_of(notebook("n <- 5", kernelspec={"language": "R"}))
    assert (found.language, found.known) == ("R", False)
    assert fitting(found, {"n": "x"}) == {"n": "x"}


CELL = (
    "n = 5\nscale = 1.5\nname = 'm31'\non = True\nbands = ['F158']\noptions = {}\nwhat = None\nlimit: int | None = 3\n"
)


@pytest.mark.parametrize(
    "values",
    [
        {"n": 7, "scale": 2, "name": "", "on": False, "bands": [], "options": {"a": None}, "what": [1]},
        {"limit": None, "what": None},
        {"scale": 10**400},
        {},
    ],
)
def test_what_fits_is_taken_as_it_is(values: dict[str, Any]) -> None:
    assert fitting(parameters_of(notebook(CELL)), values) == values


def test_a_whole_number_with_a_point_is_a_whole_number() -> None:
    [value] = fitting(parameters_of(notebook(CELL)), {"n": 5.0}).values()
    assert (value, type(value)) == (5, int)


@pytest.mark.parametrize(
    ("values", "sentence", "remedy"),
    [
        ({"n": "abc"}, "n takes a whole number; what was given is text.", "Give a whole number"),
        ({"n": 2.5}, "n takes a whole number; what was given is a number with a fraction.", "`n: float`"),
        ({"n": True}, "n takes a whole number; what was given is true or false.", ""),
        ({"n": None}, "n takes a whole number; what was given is nothing (null).", "`n: int | None`"),
        ({"scale": "1"}, "scale takes a number; what was given is text.", ""),
        ({"name": 5}, "name takes text; what was given is a whole number.", "in quotes"),
        ({"on": 1}, "on takes true or false; what was given is a whole number.", ""),
        ({"bands": "F158"}, "bands takes a list; what was given is text.", ""),
        ({"options": []}, "options takes a mapping; what was given is a list.", ""),
        ({"limit": {}}, "limit takes a whole number; what was given is a mapping.", ""),
        ({"m": 1, "n": 2}, "The notebook has no parameter m. Its parameters are: n, scale,", "Correct the name"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(values: dict[str, Any], sentence: str, remedy: str) -> None:
    with pytest.raises(InvalidParametersError) as refused:
        fitting(parameters_of(notebook(CELL)), values)
    assert sentence in refused.value.detail
    assert remedy in refused.value.remedy
    assert refused.value.faults.keys() == {next(iter(values))}


def test_a_notebook_without_the_cell_takes_none() -> None:
    bare = parameters_of(notebook("n = 1") | {"cells": []})
    assert fitting(bare, {}) == {}
    with pytest.raises(InvalidParametersError, match="takes no parameters, but n came"):
        fitting(bare, {"n": 1})


NAMES = st.from_regex(r"[a-zA-Zé][a-zA-Z0-9_]{0,8}", fullmatch=True).filter(
    lambda name: not keyword.iskeyword(name) and name.isidentifier() and name == name.strip()
)
# Where papermill's pattern says the truth: no `#` or `=` in a text, one line, and no comment that begins as a type's.
WORDS = st.text(st.characters(codec="utf-8", categories=["L", "N"], include_characters=" .,:()[]-"), max_size=12)
SCALARS = st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.none() | WORDS
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(WORDS, SCALARS, max_size=3)
LINES = st.tuples(NAMES, st.sampled_from(["", *ANNOTATIONS]), VALUES, WORDS)


# How fast a busy machine makes and tries examples says nothing of the rule.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(LINES, max_size=6))
def test_what_papermill_finds_is_found_with_its_default_and_help(
    lines: list[tuple[str, str, Any, str]],
) -> None:
    source = "\n".join(
        f"{name}{f': {annotation}' if annotation else ''} = {value!r}{f'  # {told}' if told.strip() else ''}"
        for name, annotation, value, told in lines
    )
    # papermill's list has a name that is assigned again twice; the last counts, as in the cell.
    theirs = {one.name: one for one in PythonTranslator.inspect(nbformat.v4.new_code_cell(source))}
    ours = read(source)
    assert ours.keys() == theirs.keys()
    for name, (_, annotation, value, _) in {line[0]: line for line in lines}.items():
        mine = ours[name]
        assert mine.help == theirs[name].help
        assert json.dumps(mine.default) == json.dumps(value)
        assert mine.default == _plain(theirs[name].default)
        assert theirs[name].inferred_type_name == (annotation or "None")
        if annotation:
            assert mine.kind == ANNOTATIONS[annotation]


def _plain(text: str) -> Any:
    return json.loads(json.dumps(__import__("ast").literal_eval(text)))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(NAMES, VALUES, max_size=5), st.dictionaries(NAMES, VALUES, max_size=5))
def test_a_default_fits_its_own_parameter_and_a_value_of_its_type_too(
    defaults: dict[str, Any], others: dict[str, Any]
) -> None:
    found = parameters_of(notebook("\n".join(f"{name} = {value!r}" for name, value in defaults.items())))
    assert json.dumps(fitting(found, defaults)) == json.dumps(defaults)
    given_values = dict(zip(defaults, others.values(), strict=False))
    kinds = {parameter.name: parameter.kind for parameter in found.parameters}
    alike = {
        name: value
        for name, value in given_values.items()
        if kinds[name] is ParameterKind.ANY or type(value) is type(defaults[name])
    }
    assert fitting(found, alike) == alike


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=200))
def test_any_source_is_answered(source: str) -> None:
    found = parameters_of(notebook(source))
    assert isinstance(found, NotebookParameters)
    found.model_dump_json().encode()
