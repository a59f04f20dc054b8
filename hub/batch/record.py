"""Values that a notebook records, and how they are read from the executed notebook.

`record` may be called in any notebook: interactively it shows what it records, in a batch run it is kept with the run.
The module needs nothing but Python, so that it works in whatever image the notebook runs.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

OURS = "application/vnd.meridian.output+json"
# What scrapbook's `glue` writes, whose notebooks need not be changed.
SCRAPBOOK = "application/scrapbook.scrap.json+json"
# With more than this the service keeps none of the rest.
BYTES_MAX = 16_000
NAME_LENGTH_MAX = 100
NOTEBOOK_BYTES_MAX = 50_000_000


def record(name: str, value: Any) -> None:
    """Record a value under a name: what is recorded last under a name counts.

    value: what JSON can say, and numbers of numpy; a number that is not finite is kept as None. Raises TypeError for
    others, and ValueError for a name without characters, or longer than 100, or a value of more than 16 kB: write
    large results to a file, and record its path.
    """
    if not isinstance(name, str) or not 0 < len(name) <= NAME_LENGTH_MAX:
        msg = f"A recorded value needs a name of 1 to {NAME_LENGTH_MAX} characters, not {name!r}."
        raise ValueError(msg)
    plain = _to_plain(value)
    if len(json.dumps({name: plain})) > BYTES_MAX:
        msg = f"{name!r} is larger than {BYTES_MAX // 1000} kB: write it to a file, and record the file's path."
        raise ValueError(msg)
    try:
        from IPython import display  # noqa: PLC0415  # a runner, which reads only, may have none
    except ImportError:
        return
    show: Any = display.display
    show({OURS: {name: plain}, "text/plain": f"{name} = {plain!r}"}, raw=True)


def read_recorded(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a notebook (nbformat 4, as JSON) recorded, by name, up to BYTES_MAX; anything of no form is left out.

    Anybody may have written the notebook: what is too large, or not what `record` or scrapbook write, is no error.
    """
    found: dict[str, Any] = {}
    for data in _outputs(notebook):
        found.update(_ours(data.get(OURS)))
        found.update(_scrap(data.get(SCRAPBOOK)))
    kept: dict[str, Any] = {}
    free_bytes = BYTES_MAX
    for name, value in found.items():
        try:
            plain = _to_plain(value)
            taken_bytes = len(json.dumps({name: plain})) + 2
            name.encode()
        except (TypeError, ValueError, RecursionError):
            continue
        if 0 < len(name) <= NAME_LENGTH_MAX and taken_bytes <= free_bytes:
            kept[name] = plain
            free_bytes -= taken_bytes
    return kept


def read_recorded_file(path: Path) -> dict[str, Any]:
    """As `read_recorded`, of a notebook's file; nothing when there is no plain file, or it is too large."""
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > NOTEBOOK_BYTES_MAX:
            return {}
        content = path.read_bytes()
        # Few notebooks record anything, and to read a large one takes long.
        if not any(kind.encode() in content for kind in (OURS, SCRAPBOOK)):
            return {}
        notebook = json.loads(content)
    except (OSError, ValueError, RecursionError):
        return {}
    return read_recorded(notebook) if isinstance(notebook, dict) else {}


def _outputs(notebook: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """The data of every output of the notebook that is of the right form."""
    for cell in _list(notebook.get("cells")):
        for output in _list(cell.get("outputs") if isinstance(cell, dict) else None):
            data = output.get("data") if isinstance(output, dict) else None
            if isinstance(data, dict):
                yield data


def _ours(data: object) -> dict[str, Any]:
    return data if isinstance(data, dict) else {}


def _scrap(data: object) -> dict[str, Any]:
    """The one value of a scrap; those that scrapbook has encoded as something else than JSON are not values."""
    if not isinstance(data, dict) or not isinstance(data.get("name"), str) or "data" not in data:
        return {}
    return {data["name"]: data["data"]}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _to_plain(value: Any) -> Any:
    """The value as JSON has it: TypeError for what it has not."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            msg = "A recorded mapping must have texts as its keys."
            raise TypeError(msg)
        return {key: _to_plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(one) for one in value]
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str):
        value.encode()  # half of a surrogate pair is in no answer
        return str(value)
    # numpy's numbers and arrays, and astropy's, say themselves what they are in plain Python.
    to_list = getattr(value, "tolist", None)
    if to_list is not None and (plain := to_list()) is not value:
        return _to_plain(plain)
    msg = f"A recorded value must be a number, a text, a list or a mapping, not {type(value).__name__}."
    raise TypeError(msg)
