"""Functions that are called in processes of their own."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_SECONDS = 240


def exit_code_of(target: Callable[..., object], *arguments: object) -> int:
    """Call a function in a process that has all that is here; return how that ended, below 0: killed by a signal.

    AssertionError where it does not end: what another thread of ours holds just then, it waits for in vain.
    """
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    process.join(PATIENCE_SECONDS)
    code = process.exitcode
    if code is None:
        process.kill()
        process.join()
    assert code is not None, f"{target} does not end"
    return code
