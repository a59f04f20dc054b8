"""The record of a run: what it was made of, what it made, and whether a replay made the same. Pure functions."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from allocations.leases.views import View
from allocations.runs.models import RunView

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

RECORD_BYTES_MAX = 4_000_000
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Short = Annotated[str, Field(max_length=300)]
PARTS_NAMED_MAX = 20


class FileRecord(View):
    """A file that a notebook declared; bytes and hash are None for an address elsewhere."""

    path: Annotated[str, Field(max_length=4_096)]
    bytes: Annotated[int, Field(ge=0, lt=2**63)] | None
    sha256: Digest | None


Files = Annotated[list[FileRecord], Field(max_length=1_000)]


class Provenance(View):
    """What is kept of a run beside what its submission says.

    notebook_sha256: of the submitted file as it is kept. image_id: the image's digest, where the cluster tells it.
    environment_sha256: of the interpreter's version and all installed packages. git_revision: of the folder that the
    notebook ran in, when it is a repository. output_sha256: of the executed notebook's sources and outputs, without
    times, counts and stderr; `cells` the beginnings of the same of each cell of the submitted notebook.
    """

    notebook_sha256: str
    image_id: str | None = None
    node: str | None = None
    interpreter: str | None = None
    platform: str | None = None
    environment_sha256: str | None = None
    packages_count: int = 0
    git_revision: str | None = None
    inputs: list[FileRecord] = Field(default_factory=list)
    outputs: list[FileRecord] = Field(default_factory=list)
    output_sha256: str | None = None
    cells: list[str] = Field(default_factory=list)


class Difference(View):
    """One thing in which a replay differs from what it repeats; `cell` counts the submitted notebook's cells from 1."""

    what: Literal["notebook", "parameters", "size", "image", "packages", "inputs", "outputs", "cell", "end"]
    cell: int | None = None
    sentence: str


class Comparison(View):
    """A replay against the run that it repeats. same_output: None when one of them left none to compare."""

    original: str
    same_output: bool | None
    sentence: str
    differences: list[Difference]


class RunRecord(View):
    """All that is known of a run. packages: None when the list is missing, or is not the one whose hash was taken."""

    run: RunView
    provenance: Provenance | None
    packages: list[str] | None
    comparison: Comparison | None


class _RunnerRecord(BaseModel):
    """What the runner wrote. A notebook may have written over it: nothing else is taken, and all is bounded."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    attempt: int
    notebook_sha256: Digest
    interpreter: Short | None
    platform: Short
    packages: Annotated[list[Short], Field(max_length=20_000)]
    environment_sha256: Digest
    node: Short
    git_revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40,64}$")] | None
    inputs: Files
    outputs: Files
    output_sha256: Digest | None
    cells: Annotated[list[Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]], Field(max_length=10_000)]


def submitted_record(notebook: bytes) -> str:
    """Return what is known when a run is submitted, as it is stored: the hash of its notebook."""
    return Provenance(notebook_sha256=hashlib.sha256(notebook).hexdigest()).model_dump_json(exclude_defaults=True)


def again_record(stored: str | None) -> str | None:
    """Return what is known of a run that is submitted again from what is stored of an earlier one."""
    earlier = _read(stored)
    if earlier is None:
        return None
    return Provenance(notebook_sha256=earlier.notebook_sha256).model_dump_json(exclude_defaults=True)


def ended_record(stored: str | None, said: bytes, attempt: int, image_id: str | None, node: str | None) -> str | None:
    """Return what is stored of a run at its end, of what the runner said and what the cluster knows.

    The hash of the notebook is that of the submission, for the runner's file may be a notebook's; so is the rest, but
    for what the cluster says, and then it is the person's own record that they spoil.
    """
    submitted = _read(stored)
    runner = _runner_record(said)
    if runner is None or runner.attempt != attempt:
        if submitted is None:
            return None
        kept = submitted.model_copy(update={"image_id": image_id, "node": node})
    else:
        fields = runner.model_dump(exclude={"attempt", "packages"})
        fields |= {"packages_count": len(runner.packages), "image_id": image_id, "node": node or runner.node}
        if submitted is not None:
            fields["notebook_sha256"] = submitted.notebook_sha256
        kept = Provenance.model_validate(fields)
    return kept.model_dump_json(exclude_defaults=True)


def record_of(run: RunView, stored: str | None, said: bytes) -> RunRecord:
    """Return the record of a run, without a comparison; `said` is the runner's file, which has the packages."""
    provenance, runner = _read(stored), _runner_record(said)
    packages = None
    if provenance is not None and runner is not None:
        found = hashlib.sha256("\n".join([runner.interpreter or "", *runner.packages]).encode()).hexdigest()
        packages = runner.packages if found == provenance.environment_sha256 else None
    return RunRecord(run=run, provenance=provenance, packages=packages, comparison=None)


def compare(original: RunRecord, replay: RunRecord) -> Comparison:
    """Say whether a replay that has ended made what its original did, and in what they differ."""
    differences = list(_differences(original, replay))
    before, after = (one.provenance.output_sha256 if one.provenance else None for one in (original, replay))
    if before is None or after is None:
        whose = "The original" if before is None else "The replay"
        same, sentence = None, f"{whose} left no executed notebook to compare."
    elif before == after:
        same, sentence = True, "Same output: every cell put out what it did before."
    else:
        same = False
        cells = [str(one.cell) for one in differences if one.cell is not None]
        sentence = f"Another output: {_cells_in_words(cells)}."
    return Comparison(original=original.run.id, same_output=same, sentence=sentence, differences=differences)


def _cells_in_words(cells: list[str]) -> str:
    if not cells:
        return "the notebooks have not the same cells"
    named = ", ".join(cells[:PARTS_NAMED_MAX]) + (" and others" if len(cells) > PARTS_NAMED_MAX else "")
    return f"cell{'s' if len(cells) > 1 else ''} {named} put out something else"


def _differences(original: RunRecord, replay: RunRecord) -> Iterator[Difference]:
    yield from _differences_of_runs(original.run, replay.run)
    before, after = original.provenance, replay.provenance
    if before is None or after is None:
        return
    if before.notebook_sha256 != after.notebook_sha256:
        yield Difference(what="notebook", sentence="The submitted notebook is not the same.")
    if original.run.image == replay.run.image and before.image_id != after.image_id:
        sentence = f"The image {replay.run.image} was {before.image_id} then and is {after.image_id} now."
        yield Difference(what="image", sentence=sentence)
    if before.environment_sha256 != after.environment_sha256:
        yield Difference(what="packages", sentence=_packages_in_words(original, replay))
    if before.inputs != after.inputs:
        yield Difference(what="inputs", sentence=_files_in_words("inputs", before.inputs, after.inputs))
    if before.outputs != after.outputs:
        yield Difference(what="outputs", sentence=_files_in_words("outputs", before.outputs, after.outputs))
    for number, hashes in enumerate(zip(before.cells, after.cells, strict=False), start=1):
        if hashes[0] != hashes[1]:
            yield Difference(what="cell", cell=number, sentence=f"Cell {number} put out something else.")


def _differences_of_runs(original: RunView, replay: RunView) -> Iterator[Difference]:
    if original.end_code != replay.end_code:
        sentence = f"The original ended as {original.end_code}, the replay as {replay.end_code}."
        yield Difference(what="end", sentence=sentence)
    if original.parameters != replay.parameters:
        yield Difference(what="parameters", sentence="The parameters are not the same.")
    if (original.size, original.resources) != (replay.size, replay.resources):
        yield Difference(what="size", sentence="The size is not the same.")
    if original.image != replay.image:
        sentence = f"The original ran in the image {original.image}, the replay in {replay.image}."
        yield Difference(what="image", sentence=sentence)


def _packages_in_words(original: RunRecord, replay: RunRecord) -> str:
    if original.packages is None or replay.packages is None:
        return "The interpreter or the installed packages are not the same."
    then, now = (dict(one.split("==", 1) for one in record if "==" in one) for record in _packages(original, replay))
    changed = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
    if not changed:
        return "The interpreter is not the same."
    parts = [f"{name} {then.get(name, 'absent')} → {now.get(name, 'absent')}" for name in changed[:PARTS_NAMED_MAX]]
    more = f" and {len(changed) - PARTS_NAMED_MAX} more" if len(changed) > PARTS_NAMED_MAX else ""
    return f"Installed packages differ: {', '.join(parts)}{more}."


def _packages(*records: RunRecord) -> list[list[str]]:
    return [record.packages or [] for record in records]


def _files_in_words(what: str, before: Iterable[FileRecord], after: Iterable[FileRecord]) -> str:
    then, now = ({one.path: one for one in files} for files in (before, after))
    changed = sorted(path for path in then.keys() | now.keys() if then.get(path) != now.get(path))
    more = " and others" if len(changed) > PARTS_NAMED_MAX else ""
    return f"Declared {what} differ: {', '.join(changed[:PARTS_NAMED_MAX])}{more}."


def _read(stored: str | None) -> Provenance | None:
    return Provenance.model_validate_json(stored) if stored else None


def _runner_record(said: bytes) -> _RunnerRecord | None:
    try:
        return _RunnerRecord.model_validate_json(said)
    except ValidationError:
        return None
