"""Owners of an area who do all they can to have something outside of it read or removed; each a process of its own.

They run under an account without rights, in a folder that holds their `area`, `theirs` outside of it, where they may
move things, `canaries` that only root can read, and `linkable` files to which they may make hard links.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import stat
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from allocations.storage.purge.trash import TRASH

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

UID = 2000
FOLDERS = ("a", "b", "a/in", "b/in")
# Canaries have these names too, so that a way that leads to them finds what it looks for.
NAMES = ("f", "g", "h")
OLD_NS = 10**18
_HERE = -100
_EXCHANGE = 2
_libc = ctypes.CDLL(None, use_errno=True)


def become_nobody_else() -> None:
    """Give up all rights but those of the account."""
    os.setgroups([])
    os.setgid(UID)
    os.setuid(UID)


class Attacker:
    """Somebody who works in the folder of all; what it has to tell is written into `theirs`."""

    def __init__(self, base: Path, seed: int) -> None:
        """Prepare."""
        self._base = str(base)
        self._random = random.Random(seed)

    def run(self) -> None:
        """Go on until killed."""
        raise NotImplementedError


class Swapper(Attacker):
    """Puts links, FIFOs, hard links, other files and other folders in the place of each other, over and over."""

    def __init__(self, base: Path, seed: int) -> None:
        """Prepare."""
        super().__init__(base, seed)
        self._acts: list[Callable[[], None]] = [
            self._make,
            self._make,
            self._swap_folder_for_link,
            self._swap_file_for_link,
            self._swap_files,
            self._swap_folders,
            self._move_out,
            self._replace,
            self._change,
            self._meddle_with_the_trash,
        ]

    def run(self) -> None:
        """Go on until killed."""
        os.chdir(self._base)
        while True:
            # What one made, another may have taken away.
            with suppress(OSError):
                self._random.choice(self._acts)()
            time.sleep(self._random.random() / 2000)

    def _folder(self) -> str:
        return f"area/{self._random.choice(FOLDERS)}"

    def _file(self) -> str:
        return f"{self._folder()}/{self._random.choice(NAMES)}"

    def _make(self) -> None:
        for folder in FOLDERS:
            with suppress(FileExistsError):
                os.mkdir(f"area/{folder}")
        for _ in range(4):
            with suppress(FileExistsError):
                path = self._file()
                fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW)
                os.write(fd, b"%d" % self._random.randrange(10**9))
                os.close(fd)
                os.utime(path, ns=(OLD_NS, OLD_NS), follow_symlinks=False)

    def _swap_folder_for_link(self) -> None:
        path = self._folder()
        self._swap_for_link(path, f"{self._base}/canaries{path.removeprefix('area')}")

    def _swap_file_for_link(self) -> None:
        path = self._file()
        self._swap_for_link(path, f"{self._base}/canaries/{path.rpartition('/')[2]}")

    def _swap_for_link(self, path: str, target: str) -> None:
        link = f"area/link-{os.getpid()}"
        with suppress(FileNotFoundError):
            os.unlink(link)
        # Some defences know absolute links only.
        up = os.path.relpath(target, f"{self._base}/{os.path.dirname(path)}")
        os.symlink(self._random.choice((target, up)), link)
        exchange(path, link)
        time.sleep(self._random.random() / 1000)
        exchange(path, link)

    def _swap_files(self) -> None:
        exchange(self._file(), self._file())

    def _swap_folders(self) -> None:
        exchange(self._folder(), self._folder())

    def _move_out(self) -> None:
        path, outside = self._folder(), f"theirs/{os.getpid()}"
        os.rename(path, outside)
        time.sleep(self._random.random() / 1000)
        os.rename(outside, path)

    def _replace(self) -> None:
        path, new = self._file(), f"theirs/new-{os.getpid()}"
        with suppress(FileNotFoundError):
            os.unlink(new)
        kind = self._random.randrange(5)
        if kind == 0:
            os.mkfifo(new)
        elif kind == 1:
            os.link(f"linkable/{self._random.choice(NAMES)}", new)
        elif kind == 2:
            os.symlink(f"{self._base}/canaries/{path.rpartition('/')[2]}", new)
        elif kind == 3:
            os.mkdir(new)
        else:
            os.link(self._file(), new, follow_symlinks=False)
        if kind < 3:
            os.utime(new, ns=(OLD_NS, OLD_NS), follow_symlinks=False)
        exchange(new, path)
        if kind == 3:
            os.rename(new, f"{path}/in it")

    def _change(self) -> None:
        path = self._file()
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if stat.S_ISREG(os.fstat(fd).st_mode) and os.fstat(fd).st_uid == UID:
                os.write(fd, b"more")
                os.utime(fd, ns=(OLD_NS, OLD_NS))
        finally:
            os.close(fd)

    def _meddle_with_the_trash(self) -> None:
        if self._random.random() < 0.7:  # else it would hardly ever come to anything else
            return
        trash, aside = f"area/{TRASH}", f"area/aside-{os.getpid()}"
        # What another of us has put there would keep every purge off, and us from trying more.
        if os.path.islink(trash):
            os.unlink(trash)
        with suppress(FileNotFoundError):
            os.rmdir(aside)
        os.rename(trash, aside)
        os.symlink(f"{self._base}/canaries", trash)
        time.sleep(self._random.random() / 1000)
        os.unlink(trash)
        os.rename(aside, trash)


class Mover(Attacker):
    """Moves a tree out of the area and in again, and sees whether anything of it goes while it is outside: that is
    written to `theirs/lost`."""

    def run(self) -> None:
        """Go on until killed."""
        os.chdir(self._base)
        number = 0
        while True:
            number += 1
            self._fill(number)
            try:
                os.rename("area/moved", "theirs/moved")
            except FileNotFoundError:  # the purge was faster
                continue
            self._watch(set(_all_of("theirs/moved")))
            os.rename("theirs/moved", "area/moved")
            time.sleep(self._random.random() / 500)

    def _fill(self, number: int) -> None:
        """The purge may remove any of it at any moment."""
        while True:
            try:
                for folder in ("moved", "moved/in"):
                    with suppress(FileExistsError):
                        os.mkdir(f"area/{folder}")
                    for name in NAMES:
                        path = f"area/{folder}/{name}{number % 3}"
                        with suppress(FileExistsError):
                            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                            os.utime(path, ns=(OLD_NS, OLD_NS))
                os.stat("area/moved")
            except FileNotFoundError:
                continue
            return

    def _watch(self, before: set[str]) -> None:
        """What is taken from here although it is outside is back in a moment."""
        time.sleep(self._random.random() / 500)
        until = time.monotonic() + 20
        while before - set(_all_of("theirs/moved")):
            if time.monotonic() > until:
                with open("theirs/lost", "a") as file:
                    file.write(json.dumps(sorted(before - set(_all_of("theirs/moved")))) + "\n")
                return
            time.sleep(0.01)


class Keeper(Attacker):
    """Saves a file over and over, as editors do, always of the same size and mtime, and notes which vanished, in
    `theirs/vanished`, a line each."""

    def run(self) -> None:
        """Go on until killed."""
        os.chdir(self._base)
        os.mkdir("area/kept")
        number = 0
        with open("theirs/vanished", "a") as vanished:
            while True:
                text = f"version {number:09}"
                with suppress(FileNotFoundError):
                    with open("theirs/version", "w") as file:
                        file.write(text)
                    os.utime("theirs/version", ns=(OLD_NS, OLD_NS))
                    os.rename("theirs/version", "area/kept/file")
                    time.sleep(self._random.random() / 5)
                    if not os.path.exists("area/kept/file"):
                        vanished.write(f"{text}\n")
                        vanished.flush()
                with suppress(FileExistsError):
                    os.mkdir("area/kept")
                number += 1


def _all_of(folder: str) -> list[str]:
    return [f"{above}/{name}" for above, folders, names in os.walk(folder) for name in folders + names]


def exchange(one: str, other: str) -> None:
    """Exchange what two names stand for, at once."""
    if _libc.renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), one)
