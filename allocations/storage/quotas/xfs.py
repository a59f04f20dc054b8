"""Areas as projects of XFS, one each, by the `xfs_quota` command; their numbers are the areas'.

The command splits what it is given at blanks, so that no path could be told to it in general: it is only told numbers.
A folder's project is set by the kernel's own call (FS_IOC_FSSETXATTR of <linux/fs.h>), on the folder that is open, when
it is made: what is made within it is of the same project from then on. A folder that has files already must be given to
its project by an administrator, while nobody changes it; until then it is a problem.

Its owner may change the project of a file, where the owner's processes are in the same user namespace as the file
system's mount (ioctl_fsgetxattr's EINVAL says when not): a scan finds what is hidden so, not the accounts.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from allocations.storage.quotas.backends import BackendError, Found, Use, in_grains, name_of, sentence
from allocations.storage.quotas.making import make_folder
from allocations.storage.tree.beneath import FOLDER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from allocations.storage.quotas.backends import Area

Value = TypeVar("Value")

KIBIBYTE = 1024
_ATTRIBUTES = struct.Struct("=5I8x")  # flags, extent size, extents, project, size of copied extents
_GET, _SET = (direction << 30 | _ATTRIBUTES.size << 16 | ord("X") << 8 | n for direction, n in ((2, 31), (1, 32)))
_INHERIT = 0x200
# A project: blocks of 1,024 bytes and then files; each used, soft and hard limit, warnings, what is left of the grace.
_COUNTS = r"\s+(\d+)\s+(\d+)\s+(\d+)\s+\d+\s+\[[^\]]*\]"
_LINE = re.compile(rf"#(\d+){_COUNTS}{_COUNTS}\s*")


def run_command(arguments: Sequence[str]) -> str:
    """Run a command; return what it says, raise BackendError with its complaint. It may fail and not say so."""
    done = subprocess.run(  # noqa: S603  # our own arguments, no shell
        list(arguments), capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
    )
    if done.returncode or done.stderr:
        raise BackendError(done.stderr.strip() or f"{arguments[0]} failed with {done.returncode}")
    return done.stdout


class XfsProjects:
    """Areas that are folders in one folder of an XFS mounted with `prjquota`, which only administrators can change."""

    enforces = True
    grain_bytes = KIBIBYTE

    def __init__(
        self, mount: str, folder: str, *, owner: tuple[int, int], run: Callable[[Sequence[str]], str] = run_command
    ) -> None:
        """`mount` is where the file system is mounted; `owner`: numbers of the account and group of new areas."""
        self._mount = mount
        self._folder = folder
        self._owner = owner
        self._run = run

    def usage(self, areas: Sequence[Area]) -> Found[Use]:
        """Read what the file system has counted; a project that it does not know of takes nothing."""
        return self._read(areas, lambda used, _limit, files: Use(used, files), Use(0, 0))

    def limits(self, areas: Sequence[Area]) -> Found[int | None]:
        """Return the hard limits."""
        return self._read(areas, lambda _used, limit, _files: limit or None, None)

    def apply(self, area: Area, limit_bytes: int | None) -> None:
        """Set the hard limit of the area's project, for a folder that is of it."""
        with self._opened(area) as fd:
            _check(fd, area)
        limit = in_grains(limit_bytes, KIBIBYTE) or 0
        self._ask(f"limit -p bhard={limit // KIBIBYTE}k {area.number}")

    def make(self, area: Area) -> None:
        """Make the folder, of its own project and open to its owner alone."""
        make_folder(self._folder, area, self._owner, prepare=lambda fd: self._prepare(fd, area))
        with self._opened(area) as fd:
            # Not prepared, or put there by somebody: then it may have files already.
            if _attributes(fd)[3] != area.number and not os.listdir(fd):
                _give_project(fd, area)
            _check(fd, area)

    def _prepare(self, fd: int, area: Area) -> None:
        flags, _extent, _extents, project, _copied = _attributes(fd)
        # Nothing is renamed within a folder that hands on its own project, unless it is of that one.
        if not flags & _INHERIT or project == area.number:
            _give_project(fd, area)

    def _read(self, areas: Sequence[Area], value: Callable[[int, int, int], Value], unknown: Value) -> Found[Value]:
        reported = self._report()
        found: Found[Value] = Found()
        for area in areas:
            try:
                with self._opened(area) as fd:
                    _check(fd, area)
            except FileNotFoundError:
                found.missing.add(area.id)
            except (OSError, BackendError) as error:
                found.problems[area.id] = sentence(error)
            else:
                counts = reported.get(area.number)
                found.of[area.id] = value(*counts) if counts else unknown
        return found

    def _report(self) -> dict[int, tuple[int, int, int]]:
        """Return (bytes used, hard limit in bytes or 0, files) of each project."""
        lines = [line for line in self._ask("report -p -n -N -b -i").splitlines() if line.strip()]
        if not lines:
            # It always has a line for project 0, and says nothing where there are no accounts.
            raise BackendError(f"{self._mount} keeps no accounts of projects: mount it with the option prjquota")
        report = {}
        for line in lines:
            match = _LINE.fullmatch(line)
            if match is None:
                raise BackendError(f"xfs_quota reports what is not understood: {line!r}")
            project, used, _soft, hard, files, _soft_files, _hard_files = map(int, match.groups())
            report[project] = (used * KIBIBYTE, hard * KIBIBYTE, files)
        return report

    def _ask(self, command: str) -> str:
        # Without the administrator's lists of projects, which are not ours.
        return self._run(["xfs_quota", "-x", "-D", os.devnull, "-P", os.devnull, "-c", command, self._mount])

    @contextmanager
    def _opened(self, area: Area) -> Iterator[int]:
        root = os.open(self._folder, FOLDER)
        try:
            fd = os.open(name_of(area), FOLDER, dir_fd=root)
        finally:
            os.close(root)
        try:
            yield fd
        finally:
            os.close(fd)


def _attributes(fd: int) -> tuple[int, ...]:
    return _ATTRIBUTES.unpack(fcntl.ioctl(fd, _GET, bytes(_ATTRIBUTES.size)))


def _give_project(fd: int, area: Area) -> None:
    flags, extent, extents, _project, copied = _attributes(fd)
    fcntl.ioctl(fd, _SET, _ATTRIBUTES.pack(flags | _INHERIT, extent, extents, area.number, copied))


def _check(fd: int, area: Area) -> None:
    flags, _extent, _extents, project, _copied = _attributes(fd)
    if project != area.number or not flags & _INHERIT:
        raise BackendError(
            f"its folder is of project {project}: while nobody changes it, run "
            f"`xfs_quota -x -c 'project -s -p FOLDER {area.number}'`"
        )
