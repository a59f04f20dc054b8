"""Notebooks of git repositories: one file at a revision, fetched without running anything that the repository brings.

A place is written as pip writes it: git+https://host/group/repository@revision#path/to/notebook.ipynb. The revision (a
branch, a tag or a commit) may be left out for the repository's own; what it stands for then is kept with the run.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

PLACE_PREFIX = "git+"
# Of a whole fetch, however the host answers.
FETCH_SECONDS = 120.0
# No file that git writes may be larger: a fetch of one revision without its files is far smaller.
FETCHED_BYTES_MAX = 200_000_000
NOTEBOOK_BYTES_MAX = 20_000_000
TREES_BYTES_MAX = 10_000_000
REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]{0,199}")
COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# What git may read of the environment: where it is, where credentials of the person's own are, how out and by which CA.
PASSED = (
    "PATH", "HOME", "XDG_CONFIG_HOME", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO",
    "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy",
)  # fmt: skip
OPTIONS = (
    "protocol.allow=never",
    "protocol.https.allow=always",
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.symlinks=false",
    "fetch.recurseSubmodules=false",
    "submodule.recurse=false",
    "http.followRedirects=initial",
    "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=30",
    "gc.auto=0",
    "maintenance.auto=false",
)


class RepositoryError(Exception):
    """The place cannot be read, or the repository does not have what it names; the message says which."""


@dataclass(frozen=True)
class RepositoryPlace:
    """A file of a repository: its address (without credentials), a revision or None, the path."""

    address: str
    revision: str | None
    path: str

    @classmethod
    def parse(cls, text: str) -> RepositoryPlace:
        """Raises RepositoryError."""
        try:
            parts = urlsplit(text.removeprefix(PLACE_PREFIX))
            host = parts.hostname or ""
        except ValueError as error:
            msg = f"{text!r} is no address of a notebook in a repository."
            raise RepositoryError(msg) from error
        if parts.scheme != "https" and not (parts.scheme == "http" and host in LOOPBACK):
            msg = f"A repository is read by https only, not by {parts.scheme or 'no protocol'}."
            raise RepositoryError(msg)
        if "@" in parts.netloc:
            msg = "Leave user name and password out of the address: git's own credential helper has them."
            raise RepositoryError(msg)
        where, at, revision = parts.path.partition("@")
        path = unquote(parts.fragment)
        if not host or not where.strip("/") or parts.query or not _is_plain(where):
            msg = f"{text!r} names no repository: write git+https://host/group/repository@revision#path.ipynb."
            raise RepositoryError(msg)
        if at and (not REVISION.fullmatch(revision) or ".." in revision):
            msg = f"{revision!r} is not the name of a branch, a tag or a commit."
            raise RepositoryError(msg)
        if not path.endswith(".ipynb") or not _is_plain(path) or ".." in path.split("/") or path.startswith("/"):
            msg = "Say which notebook of the repository: write #path/to/notebook.ipynb at the end of the address."
            raise RepositoryError(msg)
        return cls(f"{parts.scheme}://{parts.netloc}{where}", revision or None, path)


@dataclass(frozen=True)
class Fetched:
    """A file of a repository, and the commit that it was read at."""

    content: bytes
    commit: str


def fetch(place: RepositoryPlace, environment: Mapping[str, str] = os.environ) -> Fetched:
    """Fetch one file: the newest history only, no work tree, no other file's content where the host can leave them out.

    Raises RepositoryError.
    """
    if shutil.which("git", path=environment.get("PATH")) is None:
        msg = "There is no git on this machine: download the notebook and submit the file."
        raise RepositoryError(msg)
    with tempfile.TemporaryDirectory(prefix="meridian-git-") as directory:
        git = _Git(Path(directory), environment, insecure=place.address.startswith("http:"))
        git.run("init", "--quiet", "--bare", "--template=", ".")
        git.run("remote", "add", "origin", place.address)
        fetching = ("fetch", "--quiet", "--depth=1", "--no-tags", "--filter=blob:none", "--no-write-fetch-head")
        # The contents that are left out are fetched when they are asked for.
        wanted = place.revision or "HEAD"
        git.run(*fetching, "origin", f"+{wanted}:refs/meridian/wanted", failing=_not_there(place))
        commit = git.run("rev-parse", "--verify", "refs/meridian/wanted^{commit}").decode().strip()
        if not COMMIT.fullmatch(commit) or (COMMIT.fullmatch(wanted) and commit != wanted):
            raise RepositoryError(_not_there(place))
        listed = git.run("ls-tree", "-z", commit, "--", place.path).decode(errors="replace")
        kind = listed.partition("\t")[0].split(" ")
        if len(kind) < 3 or kind[0] not in ("100644", "100755"):  # noqa: PLR2004  mode, type, object
            msg = f"{place.address} has no file {place.path} at {wanted} ({commit[:12]})."
            raise RepositoryError(msg)
        content = git.run("cat-file", "blob", kind[2], bytes_max=NOTEBOOK_BYTES_MAX)
        return Fetched(content, commit)


class _Git:
    """git in one directory, with settings of ours alone: no hook, no submodule, no protocol but https, no question."""

    def __init__(self, directory: Path, environment: Mapping[str, str], *, insecure: bool) -> None:
        self._directory = directory
        options = (*OPTIONS, *(("protocol.http.allow=always",) if insecure else ()))
        self._command = ["git", *(part for option in options for part in ("-c", option))]
        self._environment = {name: environment[name] for name in PASSED if name in environment} | {
            "GIT_DIR": str(directory),
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_ALLOW_PROTOCOL": "https:http" if insecure else "https",
            "LC_ALL": "C",
        }

    def run(self, *arguments: str, failing: str = "", bytes_max: int = TREES_BYTES_MAX) -> bytes:
        """What git put out. Raises RepositoryError: with `failing` and git's own last words."""
        output = self._directory / "meridian-output"
        with output.open("wb") as out:
            process = subprocess.Popen(  # noqa: S603  git itself, with options of ours
                [*self._command, *arguments],
                cwd=self._directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.PIPE,
                # Those that git starts end with it; none of them fills the disk.
                start_new_session=True,
                preexec_fn=_limit_files,  # noqa: PLW1509  one system call, which takes no lock
            )
            try:
                _, said = process.communicate(timeout=FETCH_SECONDS)
            except subprocess.TimeoutExpired as error:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                msg = f"The repository did not answer within {FETCH_SECONDS:.0f} seconds. Try again later."
                raise RepositoryError(msg) from error
        if process.returncode != 0:
            lines = said.decode(errors="replace").strip().splitlines()
            last = next((line for line in reversed(lines) if line.startswith(("fatal:", "error:"))), "")
            msg = " ".join(part for part in (failing or "git could not read the repository.", last[:300]) if part)
            raise RepositoryError(msg)
        if output.stat().st_size > bytes_max:
            msg = f"The file is larger than {bytes_max // 1_000_000} MB. Clear the notebook's outputs and commit it."
            raise RepositoryError(msg)
        return output.read_bytes()


def _limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (FETCHED_BYTES_MAX, FETCHED_BYTES_MAX))


def _is_plain(text: str) -> bool:
    return text.isprintable() and "\\" not in text and not any(part.startswith("-") for part in text.split("/"))


def _not_there(place: RepositoryPlace) -> str:
    what = f"revision {place.revision!r}" if place.revision else "repository"
    return f"There is no {what} at {place.address}, or it is not open to you (a commit needs its whole number)."
