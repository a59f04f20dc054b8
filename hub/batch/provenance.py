"""What a run was made of and what it made: the runner's record of it, and how a notebook declares its files.

In a notebook:

    from hub.batch.provenance import inputs, outputs
    inputs("catalogues/m31.parquet")
    outputs("stars.parquet")

Only the standard library: the runner's code is carried into images that need not have this package.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import site
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

FORMAT = 1
FILES = "application/vnd.meridian.files+json"
# A widget's number is another each time; what it shows is not in the notebook.
WIDGET = "application/vnd.jupyter.widget-view+json"
# papermill's own cells: the parameters are in the record as they are.
PAPERMILL_TAGS = frozenset({"injected-parameters", "papermill-error-cell-tag", "papermill-error-cell"})
# Where an object lay in memory, as in `<Line2D at 0x7f3a…>`, says nothing of it.
ADDRESS = re.compile(r"\b0x[0-9a-f]{8,16}\b")
CELL_HASH_LENGTH = 16
FILES_MAX = 1_000
PATHS_SECONDS = 30
REVISION = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
PATHS_CODE = "import json, platform, site, sys; print(json.dumps([platform.python_version(), sys.path]))"


def inputs(*paths: str | os.PathLike[str]) -> None:
    """Note in the executed notebook which files were read: path, bytes and SHA-256 of each.

    An address such as `s3://bucket/key` is noted without a hash. FileNotFoundError for a file that is missing.
    """
    _declare("inputs", paths)


def outputs(*paths: str | os.PathLike[str]) -> None:
    """Note which files were made, as `inputs` does; they are saved along with the notebook where that goes."""
    _declare("outputs", paths)


def _declare(kind: str, paths: Iterable[str | os.PathLike[str]]) -> None:
    from IPython.display import display  # noqa: PLC0415  # a kernel has it, the runner need not

    files = [describe(os.fspath(path)) for path in paths]
    words = "\n".join(f"{kind[:-1]}: {one['path']} {one['sha256'] or ''}".rstrip() for one in files)
    display({FILES: {kind: files}, "text/plain": words}, raw=True)  # type: ignore[no-untyped-call]


def describe(path: str) -> dict[str, Any]:
    """A file's path as given, its bytes and its SHA-256; both None for what is elsewhere."""
    if "://" in path:
        return {"path": path, "bytes": None, "sha256": None}
    with Path(path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"path": path, "bytes": file.tell(), "sha256": digest}


def make_record(
    attempt: int, notebook: bytes, executed: Mapping[str, Any] | None, home: Path, python: str | None
) -> dict[str, Any]:
    """The record of an attempt whose notebook has ended.

    notebook: the submitted file. executed: the executed notebook, None where there is none. python: the interpreter of
    its kernel, None when that is not Python.
    """
    version, paths = _interpreter(python)
    packages = installed(paths)
    cells = cell_hashes(executed) if executed else []
    return {
        "format": FORMAT,
        "attempt": attempt,
        "notebook_sha256": hashlib.sha256(notebook).hexdigest(),
        "interpreter": version,
        "platform": platform.platform(),
        "packages": packages,
        "environment_sha256": environment_hash(version, packages),
        "node": platform.node(),
        "git_revision": git_revision(home),
        "inputs": declared(executed or {}, "inputs"),
        "outputs": declared(executed or {}, "outputs"),
        "output_sha256": hashlib.sha256("".join(cells).encode()).hexdigest() if executed else None,
        "cells": [cell[:CELL_HASH_LENGTH] for cell in cells],
    }


def environment_hash(interpreter: str | None, packages: Iterable[str]) -> str:
    """One hash of an interpreter and of the packages that it finds."""
    return hashlib.sha256("\n".join([interpreter or "", *packages]).encode()).hexdigest()


def installed(paths: Iterable[str]) -> list[str]:
    """The packages on these paths as name==version, by name; of two of one name the first is what is imported.

    By the names of their folders, which says the same as their metadata at a hundredth of the time.
    """
    found: dict[str, str] = {}
    for path in paths:
        try:
            names = sorted(entry.name for entry in os.scandir(path or "."))
        except OSError:
            continue
        for name in names:
            stem, separator, version = name.removesuffix(".dist-info").rpartition("-")
            if separator and name.endswith(".dist-info"):
                found.setdefault(re.sub(r"[-_.]+", "-", stem).lower(), version)
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def _interpreter(python: str | None) -> tuple[str | None, list[str]]:
    """The version and the search path of the kernel's interpreter, which is mostly the runner's own."""
    if python is None:
        return None, []
    if Path(python).name == python or Path(python).resolve() == Path(sys.executable).resolve():
        own = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
        return platform.python_version(), [*sys.path, *own]
    command = [python, "-c", PATHS_CODE]
    try:
        said = subprocess.run(  # noqa: S603  the kernel's own interpreter
            command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=PATHS_SECONDS
        )
        version, paths = json.loads(said.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None, []
    return version, paths


def git_revision(folder: Path) -> str | None:
    """The commit that a folder's own repository has checked out; None for any other folder, and for what can't be read.

    Read, not asked of git: a repository may name programs for git to run.
    """
    git = folder / ".git"
    try:
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref: "):
            return head if REVISION.fullmatch(head) else None
        name = head.removeprefix("ref: ")
        if ".." in name.split("/") or name.startswith("/"):
            return None
        loose = git / name
        if loose.is_file():
            revision = loose.read_text(encoding="utf-8").strip()
        else:
            lines = (git / "packed-refs").read_text(encoding="utf-8").splitlines()
            revision = next((line.split()[0] for line in lines if line.endswith(f" {name}")), "")
    except (OSError, ValueError):
        return None
    return revision if REVISION.fullmatch(revision) else None


def declared(notebook: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """The files that a notebook declared as its inputs or outputs; of one path the last word counts."""
    files: dict[str, dict[str, Any]] = {}
    for data in _declarations(notebook):
        found = data.get(kind)
        for one in found if isinstance(found, list) else []:
            if isinstance(one, dict) and isinstance(one.get("path"), str):
                files[one["path"]] = {name: one.get(name) for name in ("path", "bytes", "sha256")}
    return list(files.values())[:FILES_MAX]


def _declarations(notebook: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for cell in notebook.get("cells") or []:
        for output in cell.get("outputs") or []:
            data = (output.get("data") or {}).get(FILES)
            if isinstance(data, dict):
                yield data


def cell_hashes(notebook: Mapping[str, Any]) -> list[str]:
    """A hash of each cell of the submitted notebook: its source and what it put out, and nothing of when or how.

    Left out: times, counts, metadata, papermill's own cells, addresses in memory, the numbers of widgets, tracebacks
    (an error counts by its name and message), and what was written to stderr: warnings name files of the process, and
    bars of progress the time.
    """
    return [
        _hash([cell.get("cell_type"), _text(cell.get("source")), _outputs(cell.get("outputs") or [])])
        for cell in notebook.get("cells") or []
        if not PAPERMILL_TAGS & {str(tag) for tag in (cell.get("metadata") or {}).get("tags") or []}
    ]


def _outputs(found: Iterable[Mapping[str, Any]]) -> list[Any]:
    """What a cell put out. The text of stdout as one: how it was cut into pieces is a matter of time."""
    printed = ""
    shown: list[Any] = []
    for output in found:
        kind = output.get("output_type")
        if kind == "stream":
            printed += _text(output.get("text")) if output.get("name") == "stdout" else ""
        elif kind == "error":
            shown.append(["error", output.get("ename"), _plain(_text(output.get("evalue")))])
        else:
            data = output.get("data") or {}
            shown.append({name: _shown(value) for name, value in data.items() if name != WIDGET})
    return [_plain(printed), *shown]


def _shown(value: Any) -> Any:
    """One form of an output; JSON of a mimetype stays what it is, text may be cut into lines."""
    if isinstance(value, str) or (isinstance(value, list) and all(isinstance(line, str) for line in value)):
        return _plain(_text(value))
    return value


def _text(value: Any) -> str:
    return "".join(map(str, value)) if isinstance(value, list) else str(value or "")


def _plain(text: str) -> str:
    return ADDRESS.sub("0x", text)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
