"""Namespaces that are ready for pods."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubernetes import client

# The controllers answer within a second, but for half a minute and more after one of them was killed: the next one
# waits for the dead one's leadership to run out.
CONTROLLERS_SECONDS = 300.0
LOOK_SECONDS = 0.2


def make_namespace(core: client.CoreV1Api, name: str) -> None:
    """Create a namespace and wait for its default service account, without which no pod is taken."""
    core.create_namespace({"metadata": {"name": name}})
    await_controllers(
        f"the default service account of {name}",
        lambda: any(one.metadata.name == "default" for one in core.list_namespaced_service_account(name).items),
    )


def await_counted(core: client.CoreV1Api, namespace: str) -> None:
    """Wait until every quota of a namespace has been counted: until then no pod is taken."""
    await_controllers(
        f"the count of the quotas of {namespace}",
        lambda: all(one.status.used is not None for one in core.list_namespaced_resource_quota(namespace).items),
    )


def await_controllers(what: str, is_done: Callable[[], bool]) -> None:
    """Wait for what a controller of the cluster does; TimeoutError says what was waited for."""
    until = time.monotonic() + CONTROLLERS_SECONDS
    while not is_done():
        if time.monotonic() > until:
            raise TimeoutError(f"the cluster's controllers have not made {what} in {CONTROLLERS_SECONDS:.0f} s")
        time.sleep(LOOK_SECONDS)
