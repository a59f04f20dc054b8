"""Projects of XFS: what can be is tried on a real one, with the real command; the rest by what its source says it says.

The kernel of the test machines has XFS without quotas. Folders of a project are real here, and so is the command's
reading of what it is told (it then fails, as there are no accounts). Reports and enforcement are not: `Accounts` prints
what the command's source has it print.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest

from allocations.storage.quotas.backends import Area, BackendError
from allocations.storage.quotas.reconcile import reconcile
from allocations.storage.quotas.xfs import XfsProjects, run_command
from tests.storage.file_systems import done_by, mounted, run
from tests.storage.making import killed_at_each_step

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

pytestmark = pytest.mark.slow

OWNER = (65534, 65534)
ANN, BOB, EVE = Area("s-ann", 1001, "ann smith"), Area("s-bob", 1002, "bob"), Area("s-eve", 4_000_000_000, "eve")
MIB = 1 << 20


@dataclass
class Accounts:
    """Answers as the command does where there are accounts of projects."""

    used: dict[int, tuple[int, int]] = field(default_factory=lambda: {0: (4, 3)})
    hard: dict[int, int] = field(default_factory=dict)
    grace: str = "[--------]"
    asked: list[str] = field(default_factory=list)

    def __call__(self, arguments: Sequence[str]) -> str:
        assert list(arguments[:-2]) == ["xfs_quota", "-x", "-D", "/dev/null", "-P", "/dev/null", "-c"]
        command = arguments[-2]
        self.asked.append(command)
        if match := re.fullmatch(r"limit -p bhard=(\d+)k (\d+)", command):
            self.hard[int(match[2])] = int(match[1])
            return ""
        assert command == "report -p -n -N -b -i"
        lines = ""
        for number in sorted(self.used.keys() | self.hard.keys()):
            kib, files = self.used.get(number, (0, 0))
            hard = self.hard.get(number, 0)
            lines += f"#{number:<10} {kib:>10} {0:>10} {hard:>10}     00 {self.grace:>9}"
            lines += f" {files:>10} {0:>10} {0:>10}     00 [--------]\n"
        return lines + "\n"


@pytest.fixture
def mount() -> Iterator[Path]:
    with mounted("xfs", 320) as found:
        (found / "homes").mkdir()
        yield found


def backend(mount: Path, accounts: Accounts | None = None) -> XfsProjects:
    return XfsProjects(str(mount), str(mount / "homes"), owner=OWNER, run=accounts or run_command)


def project_of(path: Path) -> int:
    return int(run("xfs_io", "-r", "-c", "lsproj", path).split()[-1])


def test_a_folder_is_made_of_its_project_and_so_is_what_is_made_in_it(mount):
    made = backend(mount)
    for area in (ANN, EVE, ANN):
        made.make(area)
    folder = mount / "homes" / ANN.place
    assert done_by(OWNER, lambda: (folder / "deep" / "er").mkdir(parents=True)) == 0
    assert done_by(OWNER, lambda: (folder / "deep" / "er" / "file").write_text("x")) == 0
    assert [project_of(folder / path) for path in ("", "deep/er", "deep/er/file")] == [1001] * 3
    assert project_of(mount / "homes" / "eve") == 4_000_000_000
    status = folder.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (*OWNER, 0o700)
    # As between file systems: accounts cannot be passed by a link.
    (mount / "homes" / "file").write_text("x")
    with pytest.raises(OSError, match="cross-device") as error:
        os.link(mount / "homes" / "file", folder / "link")
    assert error.value.errno == errno.EXDEV


def test_folders_of_another_project_are_told_and_left_as_they_are(mount):
    accounts = Accounts()
    made = backend(mount, accounts)
    folder = mount / "homes" / "bob"
    (folder / "data").mkdir(parents=True)
    os.symlink("bob", mount / "homes" / ANN.place)
    for found in (made.usage([ANN, BOB, EVE]), made.limits([ANN, BOB, EVE])):
        assert not found.of
        assert (set(found.problems), found.missing) == ({ANN.id, BOB.id}, {EVE.id})
        assert "project 0" in found.problems[BOB.id]
    for act in (made.make, lambda area: made.apply(area, MIB)):
        with pytest.raises(BackendError, match="project -s"):
            act(BOB)
    assert project_of(folder) == 0
    assert not [command for command in accounts.asked if command.startswith("limit")]
    # What the sentence says to run mends it, by the real command.
    run("xfs_quota", "-x", "-c", f"project -s -p {folder} {BOB.number}", mount)
    assert made.limits([BOB]).of == {BOB.id: None}
    assert project_of(folder / "data") == BOB.number


def test_an_empty_folder_whose_making_was_broken_off_is_finished(mount):
    (mount / "homes" / "bob").mkdir()
    backend(mount).make(BOB)
    assert project_of(mount / "homes" / "bob") == BOB.number


def test_a_folder_whose_making_was_broken_off_anywhere_is_made_the_next_time(mount):
    made = backend(mount, Accounts())
    killed = 0
    for is_killed in killed_at_each_step(lambda: made.make(BOB)):
        killed += is_killed
        done = reconcile(made, [BOB], {BOB.id: None})
        assert (done.problems, done.in_force) == ({}, {BOB.id: None})
        status = (mount / "homes" / "bob").stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (*OWNER, 0o700)
        if done.made:
            assert os.listdir(mount / "homes") == ["bob"]
        for name in os.listdir(mount / "homes"):
            (mount / "homes" / name).rmdir()
    assert killed > 3


def test_a_folder_is_made_where_new_ones_are_of_another_project(mount):
    run("xfs_io", "-c", "chproj 5", "-c", "chattr +P", mount / "homes")
    made = backend(mount)
    made.make(BOB)
    assert project_of(mount / "homes" / "bob") == BOB.number
    assert os.listdir(mount / "homes") == ["bob"]


@pytest.mark.parametrize("grace", ["[--------]", "[--none--]", "[7 days]", "[1 day]", "[23:59:01]"])
def test_limits_and_accounts_come_from_the_report(mount, grace):
    accounts = Accounts(grace=grace)
    made = backend(mount, accounts)
    areas = [ANN, BOB, EVE]
    intended = {ANN.id: 10 * MIB + 5, BOB.id: None, EVE.id: 100}
    done = reconcile(made, areas, intended)
    assert (done.made, done.applied, done.problems) == ([area.id for area in areas], [ANN.id, EVE.id], {})
    assert done.in_force == {ANN.id: 10 * MIB, BOB.id: None, EVE.id: 1024}
    assert reconcile(made, areas, intended).applied == []
    # Columns grow beyond their width, and there are no blanks but one between them.
    accounts.used |= {ANN.number: (123_456_789_012, 7), EVE.number: (12, 98_765_432_109)}
    found = made.usage(areas).of
    assert [(found[area.id].bytes, found[area.id].files) for area in areas] == [
        (123_456_789_012 * 1024, 7),
        (0, 0),
        (12 * 1024, 98_765_432_109),
    ]
    made.apply(ANN, None)
    assert made.limits([ANN]).of == {ANN.id: None}


def test_a_report_that_is_not_understood_is_no_account(mount):
    for text in ("", "\n", "#0 12 34\n", "xfs_quota: something\n", "#5  1 0 0 00 [--------]\n"):
        said = Mock(return_value=text)
        with pytest.raises(BackendError):
            XfsProjects(str(mount), str(mount / "homes"), owner=OWNER, run=said).limits([])


def test_the_real_command_understands_what_it_is_told(mount):
    """It fails for the lack of accounts, not of understanding, for which it has other words (or none)."""
    made = backend(mount)
    made.make(ANN)
    for limit in (None, 0, 10 * MIB):
        with pytest.raises(BackendError, match="cannot set limits: Function not implemented"):
            made.apply(ANN, limit)
    with pytest.raises(BackendError, match="prjquota"):
        made.usage([ANN])
    ask = ["xfs_quota", "-x", "-c"]
    with pytest.raises(BackendError, match="unrecognised argument"):
        run_command([*ask, "limit -p bytes=5k 7", str(mount)])
    with pytest.raises(BackendError, match="invalid option"):
        run_command([*ask, "report -p -n -N -b -i -q", str(mount)])
