"""The form that is made from a notebook's parameters: each with a field of its kind, read back as it was meant."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from allocations.runs.notebook_parameters import NotebookParameters, ParameterKind, fitting, parameters_of
from allocations.web.parameter_fields import FieldsError, fields_of, read_fields
from tests.web.conftest import NOTEBOOK, fields_in
from tests.web.test_web_pages import submission

if TYPE_CHECKING:
    from tests.web.conftest import Site

CELL = """n_cutouts = 100  # how many
scale: float = 0.11
label = "m31"
note = "two\\nlines"
deep = True
mask: bool | None = None
bands = ["F158", "F184"]
options = {"psf": "<b>"}
seed: int | None = 5
what = None
path = Path("x")
"""


def book(source: str) -> dict[str, Any]:
    cell = NOTEBOOK["cells"][0] | {"source": source, "metadata": {"tags": ["parameters"]}}
    return NOTEBOOK | {"cells": [cell]}


def found_in(source: str) -> NotebookParameters:
    return parameters_of(book(source))


def test_each_parameter_has_a_field_of_its_kind_with_its_default_and_help(site: Site) -> None:
    site.accept("ann")
    draft = site.services.drafts.keep("ann", "a.ipynb", book(CELL))
    page = site.browser("ann").get(f"/runs/new?draft={draft.id}").text
    fields = fields_in(page)
    assert {name.removeprefix("p-"): value for name, value in fields.items() if name.startswith("p-")} == {
        "n_cutouts": "100",
        "scale": "0.11",
        "label": "m31",
        "note": "two\nlines",
        "deep": "true",
        "mask": "",
        "bands": '["F158", "F184"]',
        "options": '{"psf": "<b>"}',
        "seed": "5",
        "what": "",
        "path": "",
    }
    assert "how many – a whole number; the notebook has" in page
    assert "a whole number, or nothing" in page
    assert "Path(&#39;x&#39;)" in page
    assert "<b>" not in page


def test_what_was_not_changed_is_left_to_the_notebook_and_what_was_is_given(site: Site) -> None:
    entry = site.accept("ann")
    draft = site.services.drafts.keep("ann", "a.ipynb", book(CELL))
    browser = site.browser("ann")
    form = fields_in(browser.get(f"/runs/new?draft={draft.id}").text) | {"choice": f"{entry}::small"}
    assert browser.post("/runs", form).status_code == 303
    assert site.services.runs.list_of("ann")[0].parameters == {}
    del form["p-deep"]
    changed = {"p-n_cutouts": "7", "p-scale": "2", "p-label": "", "p-mask": "false", "p-bands": "[]", "p-seed": ""}
    site.clock.at_ms += 1
    sent = browser.post("/runs", form | changed | {"p-path": "a b", "p-what": "[1]", "key": "other"})
    assert sent.status_code == 303, sent.text
    assert site.services.runs.list_of("ann")[0].parameters == {
        "n_cutouts": 7,
        "scale": 2,
        "label": "",
        "deep": False,
        "mask": False,
        "bands": [],
        "seed": None,
        "path": "a b",
        "what": [1],
    }


def test_what_is_wrong_is_said_at_each_field_and_what_was_written_stays(site: Site) -> None:
    entry = site.accept("ann")
    draft = site.services.drafts.keep("ann", "a.ipynb", book(CELL))
    browser = site.browser("ann")
    wrong = {"p-n_cutouts": "2.5", "p-bands": "[1", "p-options": "[]", "minutes": "0", "p-label": "kept"}
    form = submission(entry, draft=draft.id) | {"fields": "1", "p-deep": "true"} | wrong
    response = browser.post("/runs", form)
    assert response.status_code == 422
    page = response.text
    assert "4 fields need other values." in page
    for id_ in ("p-n_cutouts", "p-bands", "p-options", "minutes"):
        assert f'href="#{id_}"' in page
        assert f'id="{id_}-fault"' in page
        assert f'aria-describedby="{id_}-help {id_}-fault" aria-invalid="true"' in page
    assert page.count("aria-invalid") == 4
    assert fields_in(page)["p-label"] == "kept"
    assert site.services.runs.list_of("ann") == []


def test_a_notebook_without_parameters_says_how_it_gets_some(site: Site) -> None:
    site.accept("ann")
    draft = site.services.drafts.keep("ann", "a.ipynb", NOTEBOOK)
    assert "This notebook takes no parameters." in site.browser("ann").get(f"/runs/new?draft={draft.id}").text


def test_more_parameters_than_a_form_has_fields_are_lines(site: Site) -> None:
    entry = site.accept("ann")
    draft = site.services.drafts.keep("ann", "a.ipynb", book("".join(f"p{n} = {n}\n" for n in range(300))))
    browser = site.browser("ann")
    form = fields_in(browser.get(f"/runs/new?draft={draft.id}").text) | {"choice": f"{entry}::small"}
    assert browser.post("/runs", form | {"parameters": "p299 = 1"}).status_code == 303
    assert site.services.runs.list_of("ann")[0].parameters == {"p299": 1}


def test_a_notebook_is_kept_for_a_day_and_the_ten_newest(site: Site) -> None:
    site.accept("ann")
    kept = []
    for _ in range(12):
        site.clock.at_ms += 1
        kept.append(site.services.drafts.keep("ann", "a.ipynb", NOTEBOOK).id)
    browser = site.browser("ann")
    assert [browser.get(f"/runs/new?draft={one}").status_code for one in kept] == [404] * 2 + [200] * 10
    assert sorted(path.name for path in site.run_store.iterdir()) == sorted(kept[2:])
    site.clock.at_ms += 86_400_000
    gone = browser.get(f"/runs/new?draft={kept[-1]}")
    assert (gone.status_code, "is not kept any more" in gone.text) == (404, True)
    site.services.drafts.keep("bob", "a.ipynb", NOTEBOOK)
    assert len(list(site.run_store.iterdir())) == 1


def test_what_the_api_keeps_is_on_the_page_that_it_names(site: Site) -> None:
    site.accept("ann")
    view = site.services.drafts.keep("ann", "a.ipynb", book(CELL))
    browser = site.browser("ann")
    assert "n_cutouts" in browser.http.get(view.page).text


NAMES = st.sampled_from(["a", "b", "c_1"])
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=9)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(TEXTS, SCALARS, max_size=2)


# How fast a busy machine makes and tries examples says nothing of the rule.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(NAMES, st.tuples(VALUES, VALUES), min_size=1))
def test_a_form_sent_as_it_was_shown_gives_what_it_was_filled_in_with(values: dict[str, tuple[Any, Any]]) -> None:
    parameters = found_in("\n".join(f"{name} = {default!r}" for name, (default, _) in values.items()))
    kinds = {one.name: one.kind for one in parameters.parameters}
    wanted = {
        name: value
        for name, (default, value) in values.items()
        if kinds[name] is ParameterKind.ANY or type(value) is type(default)
    }
    shown = fields_of(parameters, wanted)
    written = {
        field.id: field.value
        for field in shown
        if field.kind is not ParameterKind.BOOLEAN or field.nullable or field.value == "true"
    }
    read = read_fields(parameters, written)
    defaults = {name: default for name, (default, _) in values.items()}
    assert json.dumps(defaults | read) == json.dumps(defaults | wanted)
    assert fitting(parameters, read) == read


@pytest.mark.parametrize("kind", ["1", "1.5", "[]", "{}", "'t'", "True", "None"])
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=st.text(max_size=30) | st.sampled_from(["1e999", "NaN", "9" * 5000, "[" * 900, '"\\ud800"', '["\\ud800"]']))
def test_whatever_is_written_is_a_value_of_its_kind_or_refused(kind: str, text: str) -> None:
    parameters = found_in(f"x = {kind}")
    try:
        read = read_fields(parameters, {"p-x": text})
    except FieldsError as error:
        read = {}
        said = list(error.faults)
    else:
        said = []
    assert said in ([], ["p-x"])
    json.dumps(read, allow_nan=False)
    fitting(parameters, read)
