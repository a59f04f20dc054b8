"""Values that a notebook gives to those who gather many runs' results: `record("completeness", 0.93)`."""

from __future__ import annotations

import json
from typing import Any

MIMETYPE = "application/vnd.meridian.output+json"


def record(name: str, value: Any) -> None:
    """Keep a value with the executed notebook, as an output of the present cell.

    name: what the value is called in the table of results. value: anything that JSON has; numbers
    of numpy are taken as Python's. Raises TypeError for anything else.
    """
    from IPython.display import display  # noqa: PLC0415 - the service, which imports this package, has no kernel

    plain = json.loads(json.dumps(value, default=_to_python))
    display({MIMETYPE: {name: plain}, "text/plain": f"{name} = {plain}"}, raw=True)  # type: ignore[no-untyped-call]  # IPython's carries no types


def _to_python(value: Any) -> Any:
    """What numpy's scalars and arrays are in Python."""
    if hasattr(value, "tolist"):
        return value.tolist()
    msg = f"{type(value).__name__} has no form in JSON: record a number, a text, or lists and dictionaries of them."
    raise TypeError(msg)
