"""How a run's secrets reach its notebook: from the executor to the runner, and nowhere on the way.

A local runner reads them from its standard input, which is memory of the executor's. A runner in a pod, which nothing
can be handed to but files, asks for them once it has claimed its attempt; the executor writes them into the run's
folder for the pod's group alone, and the runner takes the file away at once. So no argument, no pod, no Secret and no
folder of a run that waits holds a value, and the batch process needs no right to the cluster's secrets.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hub.batch.files import read_json, write_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hub.batch.files import RunDirectory

POLL_SECONDS = 0.2
# The executor may be away for that long, as when it is upgraded.
PATIENCE_SECONDS = 600.0


class SecretMissingError(Exception):
    """A secret that the run asks for is not there any more; the message says which and what to do."""


class NotGivenError(Exception):
    """Nobody came to give the run its secrets."""


@dataclass(frozen=True)
class Given:
    """What a run is given: variables of its notebook, and those with which its output is saved."""

    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    output: Mapping[str, str] = field(default_factory=dict, repr=False)

    def to_text(self) -> str:
        return json.dumps({"values": dict(self.values), "output": dict(self.output)})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Given:
        return cls(data.get("values") or {}, data.get("output") or {})


def memory_of(given: Given) -> int:
    """The descriptor of a file that is nowhere but in memory, to be a runner's standard input."""
    descriptor = os.memfd_create("environment", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(descriptor), "w", encoding="utf-8") as file:
        file.write(given.to_text())
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def read_from_input() -> Given:
    """What the executor put into this process's standard input, which is empty from then on."""
    given = Given.from_json(json.loads(sys.stdin.read()))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return given


def ask(directory: RunDirectory, attempt: int) -> Given:
    """Ask the executor, and take away what it gives. SecretMissingError; NotGivenError when nobody comes."""
    directory.given.unlink(missing_ok=True)
    write_atomically(directory.wanted, str(attempt), durable=False)
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while (data := read_json(directory.given)) is None:
        if time.monotonic() > ends_at:
            raise NotGivenError
        time.sleep(POLL_SECONDS)
    directory.given.unlink()
    if data.get("missing"):
        raise SecretMissingError(str(data["missing"]))
    return Given.from_json(data)


def is_wanted(directory: RunDirectory, attempt: int) -> bool:
    """Whether the runner of the attempt waits for what it is given."""
    return directory.read_wanted() == str(attempt)


def give(directory: RunDirectory, text: str, group: int) -> None:
    """Put what a run is given where its runner, and no other, finds it. A runner that is lost leaves it: `forget`."""
    temporary = directory.given.with_name(f".{directory.given.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    # The mode from the first moment on, and never through a link that a notebook may have put there.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        if os.fstat(descriptor).st_gid != group:
            os.fchown(descriptor, -1, group)
        os.fchmod(descriptor, 0o640)
        file.write(text)
    directory.wanted.unlink(missing_ok=True)
    temporary.replace(directory.given)


def forget(directory: RunDirectory) -> None:
    """Remove what a run was given and did not take."""
    for path in (directory.wanted, directory.given):
        with suppress(OSError):
            path.unlink()
