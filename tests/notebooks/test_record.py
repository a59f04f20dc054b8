"""What notebooks record: plain JSON under a name, whatever numbers it was made of."""

from typing import Any

import numpy as np
import pytest

from hub.batch.record import MIMETYPE, record


@pytest.fixture
def displayed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What reaches the notebook's outputs; outside of a kernel nothing would."""
    shown: list[dict[str, Any]] = []
    monkeypatch.setattr("IPython.display.display", lambda data, *, raw: shown.append(data) if raw else None)
    return shown


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (0.93, 0.93),
        ("F158", "F158"),
        (None, None),
        (np.float32(0.5), 0.5),
        (np.arange(3), [0, 1, 2]),
        ({"a": [1]},) * 2,
    ],
)
def test_a_value_is_kept_as_json_with_a_line_to_read(
    displayed: list[dict[str, Any]], value: object, plain: object
) -> None:
    record("completeness", value)

    assert displayed == [{MIMETYPE: {"completeness": plain}, "text/plain": f"completeness = {plain}"}]


def test_what_json_has_no_form_for_is_refused(displayed: list[dict[str, Any]]) -> None:
    with pytest.raises(TypeError, match="object has no form in JSON"):
        record("thing", object())
    assert displayed == []
