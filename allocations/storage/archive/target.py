"""Puts files back beneath a root whose owner may change it meanwhile, and over nothing that is there.

Each file is made in a staging folder that only we can enter, complete with owner, mode and times, and then linked to
its name, which fails where there is something already: it is there whole or not at all. A folder that we make stays
ours alone until all is in it. Whoever owns the folder above may exchange two of ours meanwhile, so that one would be
given to the other's owner: which path each was made for is noted in the staging folder. Nor is anything put into a
folder that has another owner than what was archived: a file that all may read may have been kept by its folder.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from allocations.storage.archive import members
from allocations.storage.archive.scratch import scratch_database
from allocations.storage.tree.beneath import FILE, FOLDER, ElsewhereError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allocations.storage.archive.members import Member
    from allocations.storage.tree.beneath import Root

STAGING = ".meridian-restoring-"
# The mode of a folder that we have made and not finished: nobody else's folder is owned by us and has it.
_UNFINISHED = stat.S_ISVTX | stat.S_IRWXU
# Another one, so that a staging folder under another name is never taken for a folder to be given away.
_PRIVATE = stat.S_IRWXU
_SET_IDS = stat.S_ISUID | stat.S_ISGID
_STAGED = "file"
# Inherited from the folder above, where that has a default.
_ACLS = ("system.posix_acl_access", "system.posix_acl_default")
_NO_ATTRIBUTE = {errno.ENODATA, errno.ENOTSUP}


class InTheWayError(Exception):
    """Something else is where a file should be."""


class AlreadyThereError(Exception):
    """The file is there already, as it should be."""


class LinkError(Exception):
    """What a hard link should be another name of is not there, or not as it should be."""


class Target:
    """Where files are put, beneath a root; a context manager, whose end leaves folders as they should be.

    `token` tells one restore from another, and is the same when one is done again; `owner` (uid, gid) has the folders
    of which the archive tells nothing, and may have files that run under their owner's or group's name.
    """

    def __init__(self, root: Root, *, token: str, owner: tuple[int, int], into: str = "") -> None:
        """Make the staging folder, or find that of the same restore, and the folder that everything is put `into`.

        Raises InTheWayError, OSError.
        """
        self._root = root
        self._owner = owner
        self._name = STAGING + token
        self._path: str | None = None
        self._fd = -1
        # Some folders are not finished, so that what is noted of them is still needed.
        self._is_short = False
        # Folders that are to be finished: there may be millions.
        self._db = scratch_database()
        self._db.execute("CREATE TABLE folders (path PRIMARY KEY, depth, uid, gid, mode, atime_ns, mtime_ns)")
        self._db.execute("CREATE TABLE owners (path PRIMARY KEY, uid)")
        self._db.execute("CREATE TABLE attributes (path, name, value, PRIMARY KEY (path, name))")
        self._staging = self._make_folder(root.fd, self._name, _PRIVATE)[0]
        try:
            self._check_staging()
            self._make_into(into)
        except BaseException:
            os.close(self._staging)
            self._db.close()
            raise

    def __enter__(self) -> Self:
        """Return the target itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        """Let go of everything; what was not finished stays as it is, for the same restore to be done again."""
        self._close()
        if kind is None:
            with suppress(OSError):
                self._clear()
                if not self._is_short:
                    self._forget()
                    os.rmdir(self._name, dir_fd=self._root.fd)
        os.close(self._staging)
        self._db.close()

    def put_folder(self, of: Member, path: str) -> None:
        """Make a folder, or find it; it gets its owner, mode and times by `finish`, unless it was there before.

        Raises InTheWayError, OSError.
        """
        self._db.execute("INSERT OR REPLACE INTO owners VALUES (?, ?)", (os.fsencode(path), of.uid))
        parent, name = self._parent(path)
        fd, is_new = self._make_folder(parent, name)
        try:
            if self._is_to_finish(fd, path, of.uid):
                self._remember(path, of)
            else:
                self._check_owner(fd, path)
        finally:
            os.close(fd)
        if not is_new:
            raise AlreadyThereError

    def put(self, of: Member, path: str, data: Iterator[tuple[int, bytes]]) -> None:
        """Make a file, symbolic link or FIFO of a path; the data of a file is read to its end, if it is needed.

        Raises AlreadyThereError, InTheWayError and OSError, and whatever reading the data raises.
        """
        parent, name = self._parent(path)
        _check_free(parent, name, of)
        self._clear()
        if of.kind == members.FILE:
            self._make_file(of, data)
        else:
            if of.kind == members.SYMLINK:
                os.symlink(of.link, _STAGED, dir_fd=self._staging)
            else:
                os.mkfifo(_STAGED, 0o600, dir_fd=self._staging)
            self._finish_special(of)
        try:
            # A link, unlike a rename, never replaces what is there.
            os.link(_STAGED, name, src_dir_fd=self._staging, dst_dir_fd=parent, follow_symlinks=False)
        except FileExistsError as error:
            raise InTheWayError("something else is there, and was left") from error
        finally:
            self._clear()

    def put_link(self, of: Member, path: str, target: str, size: int) -> None:
        """Make another name of the file at `target`, which must be as the member tells: of its owner, size and time.

        Raises LinkError where it is not; AlreadyThereError, InTheWayError, OSError.
        """
        folder, _slash, name = target.rpartition("/")
        try:
            with self._root.folder(folder) as above:
                fd = self._root.open_at(above, name, FILE)
        except OSError as error:
            raise LinkError from error
        try:
            status = os.fstat(fd)
            found = (status.st_size, status.st_mtime_ns, status.st_uid, status.st_gid)
            if not stat.S_ISREG(status.st_mode) or found != (size, of.mtime_ns, of.uid, of.gid):
                raise LinkError
            parent, name = self._parent(path)
            try:
                # Of the very file that was looked at, whatever its name stands for by now.
                os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=parent, follow_symlinks=True)
            except FileExistsError as error:
                there = os.stat(name, dir_fd=parent, follow_symlinks=False)
                if os.path.samestat(there, status):
                    raise AlreadyThereError from error
                raise InTheWayError("something else is there, and was left") from error
        finally:
            os.close(fd)

    def finish(self) -> Iterator[tuple[str, str]]:
        """Give the folders that were made their owners, modes and times, the deepest first; yields what fails: paths
        and why."""
        self._close()
        folders = self._db.execute(
            "SELECT path, uid, gid, mode, atime_ns, mtime_ns FROM folders ORDER BY depth DESC, path"
        )
        for raw, uid, gid, mode, atime_ns, mtime_ns in folders:
            path = os.fsdecode(raw)
            attributes = self._db.execute("SELECT name, value FROM attributes WHERE path = ?", (raw,)).fetchall()
            try:
                with self._root.folder(path) as fd:
                    if self._is_to_finish(fd, path, uid):
                        _set_attributes(fd, [(os.fsdecode(name), value) for name, value in attributes])
                        _set_owner(fd, uid, gid)
                        if mtime_ns is not None:
                            os.utime(fd, ns=(atime_ns, mtime_ns))
                        # Last, as the mode tells that the folder is not finished.
                        os.fchmod(fd, mode)
            except InTheWayError as error:
                yield path, str(error)
            except OSError as error:
                self._is_short |= not isinstance(error, FileNotFoundError)
                yield path, error.strerror or str(error)

    def _parent(self, path: str) -> tuple[int, str]:
        """Return the folder that a path is in, and its name there; makes the folders that there are not."""
        if path.startswith(STAGING):
            raise InTheWayError("its name is one that restores use themselves")
        folder, _slash, name = path.rpartition("/")
        if self._path != folder:
            self._close()
            self._fd = self._open_or_make(folder)
            self._path = folder
        return self._fd, name

    def _open_or_make(self, path: str) -> int:
        """Open a folder, part by part, as those that a killed restore made are to be finished too."""
        fd = os.dup(self._root.fd)
        made = ""
        for part in path.split("/") if path else ():
            made = f"{made}/{part}" if made else part
            try:
                below, _is_new = self._make_folder(fd, part)
            finally:
                os.close(fd)
            fd = below
            try:
                if self._is_to_finish(fd, made, self._owner_of(made)):
                    self._remember(made, None)
                else:
                    self._check_owner(fd, made)
            except BaseException:
                os.close(fd)
                raise
        return fd

    def _check_staging(self) -> None:
        if not _is_ours(self._staging, _PRIVATE):
            raise InTheWayError(f"{self._name} is there, and is not ours: remove it, then restore again")

    def _make_into(self, path: str) -> None:
        """Make the folders that everything is put into, and give them to their owner at once: other restores need
        them too."""
        fd = os.dup(self._root.fd)
        made = ""
        try:
            for part in path.split("/") if path else ():
                made = f"{made}/{part}" if made else part
                below, _is_new = self._make_folder(fd, part)
                os.close(fd)
                fd = below
                if _is_unfinished(fd, self._owner[0]) and _is_empty(fd):
                    _set_owner(fd, *self._owner)
                    os.fchmod(fd, _PRIVATE)
                self._check_owner(fd, made)
        finally:
            os.close(fd)

    def _owner_of(self, path: str) -> int:
        row = self._db.execute("SELECT uid FROM owners WHERE path = ?", (os.fsencode(path),)).fetchone()
        return int(row[0]) if row else self._owner[0]

    def _check_owner(self, fd: int, path: str) -> None:
        """Raise InTheWayError where a folder that was there is not of who has it by the archive, or has all of it."""
        if os.fstat(fd).st_uid != self._owner_of(path):
            raise InTheWayError("a folder of somebody else is there: restore into a folder of its own")

    def _is_to_finish(self, fd: int, path: str, uid: int) -> bool:
        """Say whether a folder was made by us for a path, and not finished; raises InTheWayError where it is another's.

        One that is not noted is ours if it is empty, as the note is made before anything is put there.
        """
        if not _is_unfinished(fd, uid):
            return False
        status = os.fstat(fd)
        note = f"{status.st_dev}-{status.st_ino}"
        made_for = hashlib.sha256(os.fsencode(path)).hexdigest()
        try:
            noted = os.readlink(note, dir_fd=self._staging)
        except FileNotFoundError as error:
            if _is_empty(fd):
                os.symlink(made_for, note, dir_fd=self._staging)
                return True
            if status.st_uid == uid:
                return False
            self._is_short = True
            raise InTheWayError("another restore has not finished this folder: ask for that one again first") from error
        if noted != made_for:
            self._is_short = True
            raise InTheWayError("it was renamed while it was restored: give it its name back, then restore again")
        return True

    def _make_folder(self, parent: int, name: str, mode: int = _UNFINISHED) -> tuple[int, bool]:
        """Find a folder, or make one that is ours alone; returns it open, and whether it is new."""
        is_new = False
        try:
            fd = self._root.open_at(parent, name, FOLDER)
        except FileNotFoundError:
            os.mkdir(name, mode, dir_fd=parent)
            is_new = True
            fd = self._root.open_at(parent, name, FOLDER)
        except ElsewhereError as error:
            raise InTheWayError("something else is there, and was left") from error
        if is_new and _is_ours(fd, mode):
            _drop_acls(fd)
        return fd, is_new

    def _remember(self, path: str, of: Member | None) -> None:
        raw = os.fsencode(path)
        depth = path.count("/")
        if of is None:
            told: tuple[int | None, ...] = (*self._owner, 0o700, None, None)
            self._db.execute("INSERT OR IGNORE INTO folders VALUES (?, ?, ?, ?, ?, ?, ?)", (raw, depth, *told))
            return
        told = (of.uid, of.gid, of.mode, of.atime_ns, of.mtime_ns)
        self._db.execute("INSERT OR REPLACE INTO folders VALUES (?, ?, ?, ?, ?, ?, ?)", (raw, depth, *told))
        self._db.execute("DELETE FROM attributes WHERE path = ?", (raw,))
        attributes = [(raw, os.fsencode(name), value) for name, value in of.xattrs]
        self._db.executemany("INSERT INTO attributes VALUES (?, ?, ?)", attributes)

    def _make_file(self, of: Member, data: Iterator[tuple[int, bytes]]) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(_STAGED, flags, 0o600, dir_fd=self._staging)
        try:
            for offset, piece in data:
                written = 0
                while written < len(piece):
                    written += os.pwrite(fd, memoryview(piece)[written:], offset + written)
            if os.fstat(fd).st_size < of.size:
                os.ftruncate(fd, of.size)
            mode = of.mode
            if (of.uid, of.gid) != self._owner:
                mode &= ~_SET_IDS
            _set_attributes(fd, list(of.xattrs))
            _set_owner(fd, of.uid, of.gid)
            os.fchmod(fd, mode)
            os.utime(fd, ns=(of.atime_ns, of.mtime_ns))
        finally:
            os.close(fd)

    def _finish_special(self, of: Member) -> None:
        """Only we can enter the staging folder, so that its names stand for what we made."""
        status = os.stat(_STAGED, dir_fd=self._staging, follow_symlinks=False)
        if (status.st_uid, status.st_gid) != (of.uid, of.gid):
            os.chown(_STAGED, of.uid, of.gid, dir_fd=self._staging, follow_symlinks=False)
        if of.kind == members.FIFO:
            os.chmod(_STAGED, of.mode, dir_fd=self._staging)
        os.utime(_STAGED, ns=(of.atime_ns, of.mtime_ns), dir_fd=self._staging, follow_symlinks=False)

    def _clear(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(_STAGED, dir_fd=self._staging)

    def _forget(self) -> None:
        with os.scandir(self._staging) as entries:
            for entry in entries:
                os.unlink(entry.name, dir_fd=self._staging)

    def _close(self) -> None:
        if self._path is not None:
            os.close(self._fd)
            self._path = None


def _is_ours(fd: int, mode: int) -> bool:
    return os.fstat(fd).st_uid == os.geteuid() and _has_mode(fd, mode)


def _has_mode(fd: int, mode: int) -> bool:
    # A folder inherits the set-group-ID bit of the one that it is in.
    return stat.S_IMODE(os.fstat(fd).st_mode) & ~stat.S_ISGID == mode


def _is_unfinished(fd: int, uid: int) -> bool:
    """Say whether a folder looks like one that is to have an owner: it may have it already, and all but its mode."""
    return os.fstat(fd).st_uid in (os.geteuid(), uid) and _has_mode(fd, _UNFINISHED)


def _is_empty(fd: int) -> bool:
    with os.scandir(fd) as entries:
        return next(entries, None) is None


def _check_free(parent: int, name: str, of: Member) -> None:
    """Raise AlreadyThereError or InTheWayError where there is something of a name."""
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return
    kind = {members.FILE: stat.S_IFREG, members.SYMLINK: stat.S_IFLNK, members.FIFO: stat.S_IFIFO}[of.kind]
    same = stat.S_IFMT(status.st_mode) == kind and status.st_mtime_ns == of.mtime_ns
    if same and (of.kind != members.FILE or status.st_size == of.size):
        raise AlreadyThereError
    raise InTheWayError("something else is there, and was left")


def _set_owner(fd: int, uid: int, gid: int) -> None:
    status = os.fstat(fd)
    if (status.st_uid, status.st_gid) != (uid, gid):
        os.fchown(fd, uid, gid)


def _set_attributes(fd: int, attributes: list[tuple[str, bytes]]) -> None:
    for name, value in attributes:
        os.setxattr(fd, name, value)


def _drop_acls(fd: int) -> None:
    for name in _ACLS:
        try:
            os.removexattr(fd, name)
        except OSError as error:
            if error.errno not in _NO_ATTRIBUTE:
                raise
