"""`meridian archive …`: what is archived, whether it is whole, and the way back.

An archive is named by its place, `/a/folder` or `s3://bucket/prefix`, which needs nothing else: no database, no
service; or by the id that the database knows it by. Credentials of a bucket, and the address of one that is not
Amazon's, are those of boto3's environment.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import stat
import sys
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from allocations.clock import MS_PER_SECOND, SystemClock
from allocations.commands.options import database_option, open_database, policies_option, reading
from allocations.duties import Duties
from allocations.errors import NotFoundError, TransitionError
from allocations.ids import random_id
from allocations.lifecycle.authority import Actor
from allocations.policy.loader import load_policy
from allocations.storage.archive.format import read_commit
from allocations.storage.archive.members import DamagedError
from allocations.storage.archive.places import below, find_archives, is_place, open_place
from allocations.storage.archive.restore import NoRoomError, restore
from allocations.storage.archive.selection import Selection
from allocations.storage.archive.stores import AbsentError, StoreError
from allocations.storage.archive.target import InTheWayError
from allocations.storage.archive.verify import manifest, verify
from allocations.storage.purge.models import ArchiveState, RestoreTarget
from allocations.storage.purge.store import ArchiveStore
from allocations.storage.restores.run import BESIDE, held
from allocations.storage.store import StorageStore
from allocations.storage.tree.beneath import Root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection

    from allocations.storage.archive.format import Archive, Line
    from allocations.storage.archive.progress import Progress as Told
    from allocations.storage.purge.models import StoredArchive

NANOSECONDS = 1_000_000_000
# A pipe has no width to fit into: places must stay whole there.
PIPE_WIDTH = 200
out = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH)
err = Console(stderr=True)
json_option = click.option("--json", "as_json", is_flag=True, help="For machines.")
_KINDS = {"file": "-", "folder": "d", "symlink": "l", "link": "h", "fifo": "p"}


@click.group()
def archive() -> None:
    """Archives of files: list them, verify them, bring files back.

    An archive is named by its id, or by its place where no database is at hand: a folder such as /archives/a, or
    s3://bucket/prefix. Credentials and the address of a bucket are those of the environment (AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL).
    """


@archive.command("list")
@click.argument("which", metavar="[ARCHIVE|PLACE]", required=False)
@click.argument("paths", nargs=-1)
@click.option("--person", help="Only of this person's storage.")
@click.option("--allocation", help="Only of this allocation's storage, by its id.")
@click.option("--area", help="Only of this storage, by its id.")
@click.option("--gone", is_flag=True, help="Those too that are not kept any more, or not finished.")
@database_option
@json_option
def list_(
    which: str | None,
    paths: tuple[str, ...],
    person: str | None,
    allocation: str | None,
    area: str | None,
    gone: bool,
    database: str | None,
    state: Path,
    as_json: bool,
) -> None:
    """List archives: those that the database knows of, or those beneath PLACE. Of one ARCHIVE, list the files, all or
    those of PATHS.

    With --json, one object a line.
    """
    if which is None:
        with reading(database, state) as connection:
            _list_rows(connection, (person, allocation, area), gone=gone, as_json=as_json)
        return
    with explained():
        place = _place(which, database, state)
        store = open_place(place)
        try:
            made = read_commit(store)
        except AbsentError:
            _list_archives(place, as_json=as_json)
            return
        selection = Selection([path.strip("/") for path in paths] or None)
        for line in manifest(store, made):
            if not line.above and selection.has(line.path):
                click.echo(line.to_json() if as_json else _as_ls(line), nl=not as_json)
        _fail_unless_found(selection)


@archive.command("verify")
@click.argument("which", metavar="ARCHIVE|PLACE")
@database_option
@json_option
def verify_(which: str, database: str | None, state: Path, as_json: bool) -> None:
    """Read an archive back, all of it, and compare every checksum; exit status 1 where it is damaged."""
    with explained(), bar("Verifying", quiet=as_json) as told:
        place = _place(which, database, state)
        made = verify(open_place(place), told)
    if as_json:
        click.echo(json.dumps(_about(place, made)))
    else:
        files = f"{made.members:,} files and folders, {made.total_bytes:,} bytes, in {made.parts:,} parts"
        click.echo(f"The archive is whole: {files}.")


@archive.command("restore")
@click.argument("which", metavar="ARCHIVE|PLACE")
@click.argument("paths", nargs=-1)
@click.option(
    "--to",
    "to",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The folder that the archive was made of, or any other, to do it here and now: nothing outside is touched.",
)
@click.option(
    "--in-place",
    is_flag=True,
    help=f"Where the files were, in place of {BESIDE}/<archive>/: over nothing that is there.",
)
@database_option
@policies_option
@json_option
def restore_(
    which: str,
    paths: tuple[str, ...],
    to: Path | None,
    in_place: bool,
    database: str | None,
    state: Path,
    policies: Path,
    as_json: bool,
) -> None:
    """Bring back an archive, all of it or the files and folders PATHS, with owners, modes and times.

    Without --to, `meridian storage`, which has the mounts, is asked to. Nothing that is there is overwritten.
    Interrupted, the same command goes on; exit status 1 where some could not be restored.
    """
    if to is None:
        _ask(which, paths, in_place=in_place, database=database, state=state, policies=policies, as_json=as_json)
        return
    wanted = [path.strip("/") for path in paths] or None
    with explained(), _alone(which, database, state) as goes_on, bar("Restoring", quiet=as_json) as told:
        place = _place(which, database, state)
        store = open_place(place)
        into = "" if in_place else below(BESIDE, read_commit(store).name)
        token = hashlib.sha256(f"{place}\0{into}".encode()).hexdigest()[:16]

        def watch(done_bytes: int, total_bytes: int) -> None:
            if not goes_on():
                raise StoreError("another process has taken the storage over: go on with the same command")
            told(done_bytes, total_bytes)

        with Root(str(to)) as root:
            status = os.fstat(root.fd)
            owner = (status.st_uid, status.st_gid)
            done = restore(store, root, token=token, owner=owner, into=into, paths=wanted, progress=watch)
    where = to / into
    if as_json:
        click.echo(json.dumps({"where": str(where), **asdict(done)}))
    else:
        click.echo(f"Restored {done.members:,} files and folders into {where}; {done.there:,} were there already.")
        for path, why in done.problems:
            click.echo(f"  {shown(path)}: {why}", err=True)
        if done.problem_count > len(done.problems):
            click.echo(f"  … and {done.problem_count - len(done.problems):,} more", err=True)
    sys.exit(1 if done.problem_count else 0)


def _is_place(which: str) -> bool:
    return is_place(which) or Path(which).is_dir()


def _place(which: str, database: str | None, state: Path) -> str:
    """Return where an archive is: as it is said, or as the database knows it by its id."""
    return which if _is_place(which) else _row(which, database, state).place


def _row(archive_id: str, database: str | None, state: Path) -> StoredArchive:
    with reading(database, state) as connection:
        found = ArchiveStore().get(connection, archive_id)
    if found is None:
        raise NotFoundError(
            f"There is no archive {archive_id!r}.", "`meridian archive list` shows those that there are."
        )
    return found


@contextmanager
def _alone(which: str, database: str | None, state: Path) -> Iterator[Callable[[], bool]]:
    """Keep purges and other restores off the storage that an archive is of, where the database knows it; yields what
    says whether that holds."""
    if _is_place(which):
        yield lambda: True
        return
    opened = open_database(database, state)
    try:
        area_id = _row(which, database, state).area_id
        with held(Duties(opened, SystemClock()), random_id("command"), area_id) as is_held:
            if is_held is None:
                raise TransitionError("Another process is at work on this storage.", "Try again later.")
            yield is_held
    finally:
        opened.dispose()


def _ask(
    which: str,
    paths: tuple[str, ...],
    *,
    in_place: bool,
    database: str | None,
    state: Path,
    policies: Path,
    as_json: bool,
) -> None:
    if is_place(which):
        raise click.UsageError("Say with --to which folder of this machine it is to be restored to.")
    from allocations.factory import make_services  # noqa: PLC0415  # the other commands start faster without it

    opened = open_database(database, state)
    try:
        target = RestoreTarget.IN_PLACE if in_place else RestoreTarget.BESIDE
        services = make_services(opened, load_policy(policies), state / "runs")
        asked = services.restores.ask(Actor(getpass.getuser(), admin=True), which, paths, target)
    finally:
        opened.dispose()
    if as_json:
        click.echo(json.dumps(asdict(asked)))
    else:
        where = "where they were" if in_place else f"into {BESIDE}/{which}/"
        click.echo(f"Asked for as {asked.id}: `meridian storage` brings the files back, {where}.")


def _list_rows(
    connection: Connection, of: tuple[str | None, str | None, str | None], *, gone: bool, as_json: bool
) -> None:
    """List the archives that the database knows of: of a person, an allocation, an area, or all."""
    person, allocation, area_id = of
    areas = StorageStore()
    table = Table("Archive", "Of", "Made", "Files", "Bytes", "Kept until", "State", "Place")
    wanted = tuple(ArchiveState) if gone else (ArchiveState.KEPT,)
    for one in ArchiveStore().in_states(connection, wanted):
        area = areas.find(connection, one.area_id)
        assert area is not None, "an archive is of an area"
        owner = area.owner
        if (
            person not in (None, owner.person)
            or allocation not in (None, owner.allocation_id)
            or area_id not in (None, area.id)
        ):
            continue
        if as_json:
            told = {"storage": area.storage_class, "person": owner.person, "allocation": owner.allocation_id}
            click.echo(json.dumps({**asdict(one), **told}))
        else:
            table.add_row(
                one.id,
                escape(f"{area.storage_class} of {owner.person or owner.allocation_id}"),
                _day(one.created_at_ms),
                f"{one.files:,}",
                f"{one.bytes:,}",
                "" if one.keep_until_ms is None else _day(one.keep_until_ms),
                one.state,
                escape(shown(one.place)),
            )
    if not as_json:
        out.print(table)


def _day(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms // MS_PER_SECOND, UTC):%Y-%m-%d}"


def _list_archives(place: str, *, as_json: bool) -> None:
    found: list[dict[str, Any]] = []
    for where, is_finished in find_archives(place):
        try:
            told = _about(where, read_commit(open_place(where))) if is_finished else {"state": "unfinished"}
        except DamagedError as error:
            told = {"state": "damaged", "problem": str(error)}
        found.append({"place": where, **told})
    if as_json:
        for one in found:
            click.echo(json.dumps(one))
    elif not found:
        raise AbsentError(f"There is no archive at {place}, nor beneath it: look at where archives are kept")
    else:
        table = Table("Place", "Made", "Files", "Bytes", "Left", "State")
        for one in found:
            figures = [f"{one[key]:,}" if key in one else "" for key in ("members", "bytes", "left")]
            table.add_row(escape(shown(one["place"])), escape(one.get("made_at", "")), *figures, one["state"])
        out.print(table)


def _about(place: str, made: Archive) -> dict[str, Any]:
    return {
        "place": place,
        "state": "kept",
        "name": made.name,
        "made_at": made.made_at,
        "members": made.members,
        "bytes": made.total_bytes,
        "left": made.left,
        "parts": made.parts,
        "stored_bytes": sum(one.bytes for one in made.objects.values()),
        "about": dict(made.about),
    }


def _as_ls(line: Line) -> str:
    if line.left:
        return f"left: {shown(line.path)}: {line.left}"
    try:
        time = f"{datetime.fromtimestamp(line.mtime_ns // NANOSECONDS, UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError):
        time = f"{line.mtime_ns // NANOSECONDS} s"
    mode = _KINDS[line.type] + stat.filemode(line.mode)[1:]
    link = f" -> {shown(line.link)}" if line.link else ""
    return f"{mode} {line.uid:>7} {line.gid:>7} {line.size:>15,} {time} {shown(line.path)}{link}"


def shown(path: str) -> str:
    """Return a path as a terminal may be given it: what would steer it, or is no character, is escaped."""
    return "".join(
        letter if letter.isprintable() and letter != "\\" else repr(os.fsencode(letter))[2:-1] for letter in path
    )


def _fail_unless_found(selection: Selection) -> None:
    if missing := selection.missing():
        raise AbsentError(f"{', '.join(map(shown, missing))}: not in the archive; list it without paths to see what is")


@contextmanager
def explained() -> Iterator[None]:
    """Tell what goes wrong with an archive in one sentence, with exit status 1."""
    try:
        yield
    except (StoreError, DamagedError, NoRoomError, InTheWayError) as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}: see to it, then go on with the same command")


def _fail(sentence: str) -> None:
    click.echo(f"meridian: {sentence}", err=True)
    sys.exit(1)


@contextmanager
def bar(title: str, *, quiet: bool) -> Iterator[Told]:
    """Show how far work has come."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=quiet or not err.is_terminal) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
