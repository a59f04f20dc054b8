"""Kills that befall whoever makes an area, before each thing that they ask of the kernel."""

from __future__ import annotations

import fcntl
import os
import signal
from typing import TYPE_CHECKING, Any

from tests.forked import exit_code_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CALLS = ("mkdir", "rmdir", "open", "close", "listdir", "lstat", "stat", "fstat", "chmod", "fchmod", "chown", "fchown")


def killed_at_each_step(act: Callable[[], object]) -> Iterator[bool]:
    """Act in a process that is killed before its first call, then in one before its second, and so on; yields after
    each whether it was killed, the last time False."""
    step = 0
    is_killed = True
    while is_killed:
        step += 1
        code = exit_code_of(_die_at, step, act)
        assert code in {0, -signal.SIGKILL}
        is_killed = code != 0
        yield is_killed


def _die_at(step: int, act: Callable[[], object]) -> None:
    calls = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def do(*arguments: Any, **how: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **how)

        return do

    for name in _CALLS:
        setattr(os, name, counted(getattr(os, name)))
    setattr(fcntl, "ioctl", counted(fcntl.ioctl))  # noqa: B010  # in a process of its own
    act()
