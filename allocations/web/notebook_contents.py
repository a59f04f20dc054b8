"""Reduces an executed notebook to what its page shows: outputs of known types, no metadata of its own, bounded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import nbformat

if TYPE_CHECKING:
    from collections.abc import Mapping

# The best first, as in JupyterLab, and plain text after all. What is interactive would need scripts.
SHOWN_TYPES = (
    "text/html",
    "text/markdown",
    "image/svg+xml",
    "text/latex",
    "image/png",
    "image/jpeg",
)
CELLS_MAX = 1_000
# In characters. To colour code or to clean HTML takes some seconds for half a million, plain text next to nothing.
TEXT_LENGTH_MAX = 100_000
TEXTS_LENGTH_MAX = 1_000_000
RICH_TEXTS_LENGTH_MAX = 300_000
IMAGES_LENGTH_MAX = 20_000_000
# The sanitiser's time grows with the square of how deep elements lie in each other.
NESTING_MAX = 300
PIXELS_MAX = 10_000
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)")
_VOID = frozenset({"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"})
_LANGUAGE = re.compile(r"[\w.+#-]{1,40}")


@dataclass(slots=True)
class _Room:
    """What may still be shown, in characters: of plain texts, of code and HTML, of images."""

    texts: int = TEXTS_LENGTH_MAX
    rich_texts: int = RICH_TEXTS_LENGTH_MAX
    images: int = IMAGES_LENGTH_MAX

    def take_rich_text(self, text: str) -> bool:
        """Whether a text is shown, whole, which takes its room."""
        if len(text) > min(TEXT_LENGTH_MAX, self.rich_texts):
            return False
        self.rich_texts -= len(text)
        return True

    def take_image(self, image: str) -> bool:
        """Whether an image is shown, which takes its room."""
        if len(image) > self.images:
            return False
        self.images -= len(image)
        return True

    def take_code(self, source: str) -> int:
        """Return how many characters of a cell's source are shown, which take their room."""
        length = min(len(source), TEXT_LENGTH_MAX, self.rich_texts)
        self.rich_texts -= length
        return length

    def start_of(self, text: str) -> str:
        """Return as much of a plain text as there is room for."""
        length = min(TEXT_LENGTH_MAX, self.texts)
        self.texts -= min(length, len(text))
        return _start(text, length)


def reduced(notebook: Mapping[str, Any]) -> Any:
    """Return a valid notebook of format 4 as it is shown; what is left out is said where it was."""
    room = _Room()
    # Notebooks of older minor formats have no ids.
    cells = [{"id": f"cell-{number}"} | _cell(cell, room) for number, cell in enumerate(notebook["cells"][:CELLS_MAX])]
    if len(notebook["cells"]) > CELLS_MAX:
        more = f"{len(notebook['cells']) - CELLS_MAX:,} more cells are in the downloaded notebook."
        cells.append({"cell_type": "markdown", "id": "more", "metadata": {}, "source": more})
    return nbformat.from_dict(  # type: ignore[no-untyped-call]
        {
            "nbformat": 4,
            "nbformat_minor": 5,
            "metadata": _language(notebook["metadata"].get("language_info")),
            "cells": cells,
        }
    )


def _cell(cell: Mapping[str, Any], room: _Room) -> dict[str, Any]:
    source = cell["source"]
    shown: dict[str, Any] = {"cell_type": cell["cell_type"], "metadata": {}}
    if "id" in cell:
        shown["id"] = cell["id"]
    if cell["cell_type"] == "code":
        length = room.take_code(source)
        # Within the source it would be coloured as code.
        notes = [_printed("stdout", _left_out(len(source) - length))] if length < len(source) else []
        return shown | {
            "source": source[:length],
            "execution_count": cell["execution_count"],
            "outputs": notes + [_output(output, room) for output in cell["outputs"]],
        }
    is_shown = _nesting(source) <= NESTING_MAX
    shown["source"] = _start(source, room.take_code(source)) if is_shown else _left_out(len(source))
    attachments = cell.get("attachments")
    if attachments and all(room.take_image(str(attachment)) for attachment in attachments.values()):
        shown["attachments"] = attachments
    return shown


def _output(output: Mapping[str, Any], room: _Room) -> dict[str, Any]:
    if output["output_type"] == "stream":
        return _printed(output["name"], room.start_of(output["text"]))
    if output["output_type"] == "error":
        traceback = "\n".join(output["traceback"])[-TEXT_LENGTH_MAX:]
        return {"output_type": "error", "ename": "", "evalue": "", "traceback": [room.start_of(traceback)]}
    data = output["data"]
    for kind in SHOWN_TYPES:
        content = data.get(kind)
        if isinstance(content, str) and _fits(kind, content, room):
            return _shown_as(output, kind, content)
    text = data.get("text/plain")
    if isinstance(text, str):
        return _shown_as(output, "text/plain", room.start_of(text))
    return _printed("stdout", _not_shown(data))


def _fits(kind: str, content: str, room: _Room) -> bool:
    if kind.startswith("image/"):
        return room.take_image(content)
    return _nesting(content) <= NESTING_MAX and room.take_rich_text(content)


def _shown_as(output: Mapping[str, Any], kind: str, content: str) -> dict[str, Any]:
    """Return an output of one kind; of its metadata only the size that an image is meant to have."""
    said = output["metadata"].get(kind)
    names = said if isinstance(said, dict) else {}
    size = {name: names[name] for name in ("width", "height") if _is_pixels(names.get(name))}
    shown = {"output_type": output["output_type"], "data": {kind: content}, "metadata": {kind: size}}
    return shown | ({"execution_count": output["execution_count"]} if "execution_count" in output else {})


def _is_pixels(value: object) -> bool:
    return type(value) is int and 0 < value <= PIXELS_MAX


def _not_shown(data: Mapping[str, Any]) -> str:
    lengths = [len(data[kind]) for kind in SHOWN_TYPES if isinstance(data.get(kind), str)]
    if lengths:
        return _left_out(max(lengths))
    return "[An output of a kind that is not shown here. It is in the downloaded notebook.]"


def _start(text: str, length: int) -> str:
    """Return the beginning of a text, and say how much is left out."""
    return text if len(text) <= length else f"{text[:length]}\n{_left_out(len(text) - length)}"


def _left_out(length: int) -> str:
    return f"[{length:,} characters are left out here. They are in the downloaded notebook.]"


def _printed(name: str, text: str) -> dict[str, Any]:
    return {"output_type": "stream", "name": name, "text": text}


def _language(said: object) -> dict[str, Any]:
    """Keep the names by which the code is coloured, as metadata of the notebook."""
    names = said if isinstance(said, dict) else {}
    kept = {name: names.get(name) for name in ("name", "pygments_lexer")}
    kept = {name: text for name, text in kept.items() if isinstance(text, str) and _LANGUAGE.fullmatch(text)}
    return {"language_info": kept} if "name" in kept else {}


def _nesting(html: str) -> int:
    """Return how deep elements lie in each other at most, taking every start for one that is ended by hand."""
    depth = deepest = 0
    for end, name in _TAG.findall(html):
        if name.lower() in _VOID:
            continue
        depth = max(0, depth - 1) if end else depth + 1
        deepest = max(deepest, depth)
    return deepest
