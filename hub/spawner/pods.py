"""KubeSpawner that takes the ends of pods from the API server: remembered when seen, confirmed when not.

KubeSpawner's reflector forgets a pod with its deletion, and with it the time at which its container ended; and a
reflector that has stalled shows no pod where there is one. Neither may decide what is charged.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from aiohttp import ClientError
from jupyterhub.utils import exponential_backoff
from kubernetes_asyncio.client import ApiException, V1DeleteOptions, V1Preconditions
from kubespawner import KubeSpawner
from kubespawner.spawner import PodReflector

from hub.spawner.manifests import LEASE, pod_end
from hub.spawner.record import utc_now

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping
    from datetime import datetime

REMEMBERED_PODS = 20_000
NOT_FOUND = 404
CONFLICT = 409
TOO_MANY_REQUESTS = 429
INTERNAL_SERVER_ERROR = 500
STATUS_UNKNOWN = 1
# The version from which KubeSpawner's reflector lists after a failure.
ANEW = "0"
FIRST_PAUSE_SECONDS = 1.0
# A start looks at its pod after so long even if no change was noted: the reflector may have been replaced.
LOOK_ANYWAY_SECONDS = 5.0
# How an API server that does not answer, or not with what was asked for, shows itself.
NO_ANSWER = (ApiException, ClientError, TimeoutError)

# Until when a start waits for its pod (the event loop's time), in the start's own task only: others ask to be told now.
_start_ends_at: ContextVar[float | None] = ContextVar("start_ends_at", default=None)
# By namespace/name, the pods for whose change a start waits.
_awaited: dict[str, asyncio.Event] = {}


@dataclass(slots=True)
class _Seen:
    """A leased pod as it was watched: whether this process has seen it alive, and since when it is over.

    is_closed: whether its server is being stopped for that end.
    """

    alive: bool = False
    ended_at: datetime | None = None
    is_closed: bool = False


class PodEnds:
    """When the pods of leases ended, kept after they are gone; the newest few thousand of them."""

    def __init__(self) -> None:
        """Begin without any."""
        self._seen: OrderedDict[str, _Seen] = OrderedDict()

    def see(self, pod: Mapping[str, Any], heard_at: datetime | None = None) -> None:
        """Take note of a pod as the API server shows it now; `heard_at`, when it last told of pods before that."""
        seen = self._of(pod)
        if seen is None or seen.is_closed:
            return
        now = heard_at or utc_now()
        end = pod_end(pod, utc_now())
        if end is None:
            # Also a container that was started again after it had failed.
            seen.alive, seen.ended_at = True, None
        elif end.at is not None:
            # The first that was shown: a pod on its way out may lose its container's status again.
            seen.ended_at = min(end.at, seen.ended_at or end.at)
        elif seen.alive and seen.ended_at is None:
            seen.ended_at = now

    def miss(self, pod: Mapping[str, Any], heard_at: datetime | None = None) -> None:
        """Take note that a pod, given as it was last seen, is not there any more; `heard_at` as for `see`."""
        self.see(pod, heard_at)
        seen = self._of(pod)
        if seen is not None and seen.ended_at is None:
            seen.ended_at = heard_at or utc_now()

    def close(self, lease_id: str) -> None:
        """Keep the end that is known of a lease's pod, for its server is being stopped for it.

        A container that its node starts again meanwhile is not used.
        """
        if (seen := self._seen.get(lease_id)) is not None and seen.ended_at is not None:
            seen.is_closed = True

    def end_of(self, lease_id: str) -> datetime | None:
        """When the pod of a lease ended; None while it runs, and where it ended unobserved and does not say when."""
        seen = self._seen.get(lease_id)
        return seen.ended_at if seen else None

    def _of(self, pod: Mapping[str, Any]) -> _Seen | None:
        lease_id = lease_of(pod)
        if lease_id is None:
            return None
        seen = self._seen.setdefault(lease_id, _Seen())
        self._seen.move_to_end(lease_id)
        if len(self._seen) > REMEMBERED_PODS:
            self._seen.popitem(last=False)
        return seen


class _WatchedPods(dict[str, Any]):
    """The reflector's pods by their names, each change of which is noted."""

    def __init__(self, pods: Mapping[str, Any], ends: PodEnds) -> None:
        super().__init__(pods)
        self._ends = ends
        # Until then every change has been told.
        self.heard_at = utc_now()

    def __setitem__(self, name: str, pod: Any) -> None:
        self.heard_at = utc_now()
        self._ends.see(pod)
        super().__setitem__(name, pod)
        if changed := _awaited.get(name):
            changed.set()

    def pop(self, name: str, default: Any = None) -> Any:
        self.heard_at = utc_now()
        pod = super().pop(name, default)
        if pod is not None:
            self._ends.miss(pod)
        return pod


class LeasePodReflector(PodReflector):
    """KubeSpawner's reflector of pods, which remembers how they ended."""

    # One for the process: it outlives a reflector that had to be replaced.
    ends: ClassVar[PodEnds] = PodEnds()
    resources: dict[str, Any]

    async def _list_and_update(self, resource_version: str | None = None) -> str:
        before, now = self.resources, utc_now()
        version: str = await super()._list_and_update(resource_version)
        # The API server may have been away for minutes: what has ended meanwhile ran until it was last told of, or a
        # little longer, and is not charged for the rest.
        heard_at = before.heard_at if isinstance(before, _WatchedPods) else None
        if heard_at is not None and resource_version not in {None, ANEW}:
            # Its watch has ended in good order, and has told of every change until now.
            heard_at = now
        for name, pod in before.items():
            if lease_of(self.resources.get(name)) != lease_of(pod):
                self.ends.miss(pod, heard_at)
        for pod in self.resources.values():
            self.ends.see(pod, heard_at)
        self.resources = _WatchedPods(self.resources, self.ends)
        return version


class ObservedKubeSpawner(KubeSpawner):
    """KubeSpawner, with `poll` that tells what has ended from what only does not show, and a start that is told.

    KubeSpawner looks for its pod at random times, further and further apart, and so sees it up to seconds late.
    """

    def is_pod_running(self, pod: dict[str, Any] | None) -> bool | Awaitable[bool]:
        """Whether a pod runs; to a start, which may wait for an answer, as soon as it does."""
        running: bool = super().is_pod_running(pod)
        ends_at = _start_ends_at.get()
        return running if running or ends_at is None else self._until_running(ends_at)

    async def _start(self) -> Any:
        token = _start_ends_at.set(asyncio.get_running_loop().time() + self.start_timeout)
        try:
            return await super()._start()
        finally:
            _start_ends_at.reset(token)

    async def _until_running(self, ends_at: float) -> bool:
        """Wait until the pod runs, at most until a time of the event loop; False when it does not."""
        time, name = asyncio.get_running_loop().time, f"{self.namespace}/{self.pod_name}"
        changed = _awaited.setdefault(name, asyncio.Event())
        try:
            while True:
                changed.clear()
                if super().is_pod_running(self.watched_pod):
                    return True
                wait_seconds = min(LOOK_ANYWAY_SECONDS, ends_at - time())
                if wait_seconds <= 0:
                    return False
                with suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), wait_seconds)
        finally:
            _awaited.pop(name, None)

    async def poll(self) -> int | None:
        """None while the pod runs or nothing is known of it, else its exit status."""
        try:
            pod = await self._find_pod()
        except NO_ANSWER as error:
            self.log.warning("Whether the pod %s runs can't be known: %s", self.pod_name, error)
            return None
        if pod is None:
            await self.note_unobserved_end()
            return STATUS_UNKNOWN
        if pod_end(pod, utc_now()) is None:
            status: int | None = await super().poll()
            return status
        lease_id = lease_of(pod) or ""
        if LeasePodReflector.ends.end_of(lease_id) is None:
            await self.note_unobserved_end()
        LeasePodReflector.ends.close(lease_id)
        if self.delete_stopped_pods:
            await self.stop(now=True)
        return _exit_status(pod)

    async def stop(self, now: bool = False) -> None:
        """Stop the pod; an API server that does not answer is asked again for `k8s_api_request_retry_timeout`.

        JupyterHub takes a server whose stop failed for stopped, and then nobody stops its pod.
        """
        await exponential_backoff(
            partial(self._stop_if_answered, now),
            f"The pod {self.pod_name} could not be stopped: the API server does not answer",
            start_wait=FIRST_PAUSE_SECONDS,
            timeout=self.k8s_api_request_retry_timeout,
        )

    async def _stop_if_answered(self, now: bool) -> bool:
        try:
            await super().stop(now=now)
        except (ApiException, ClientError) as error:
            if isinstance(error, ApiException) and not _is_away(error):
                raise
            self.log.warning("The pod %s is not stopped yet: %s", self.pod_name, error)
            return False
        return True

    async def note_unobserved_end(self) -> None:
        """Called when the pod ended unobserved, and nothing that is left of it says when."""

    @property
    def watched_pod(self) -> dict[str, Any] | None:
        """The pod as the reflector shows it."""
        reflector = self.pod_reflector
        return reflector.pods.get(f"{self.namespace}/{self.pod_name}") if reflector else None

    async def watched_pods(self) -> list[dict[str, Any]]:
        """All pods of servers as the reflector shows them, of whichever hub; raises one of NO_ANSWER."""
        reflector = await self._start_watching_pods()
        if reflector.watch_task is None or reflector.watch_task.done():
            # Its first list failed, or it has given up: it would show the same for ever.
            reflector = await self._start_watching_pods(replace=True)
        return list(reflector.pods.values())

    async def read_pods(self) -> list[dict[str, Any]]:
        """All pods of servers as the API server shows them now, of whichever hub; raises one of NO_ANSWER."""
        options = {"label_selector": f"component={self.component_label}", "_preload_content": False}
        async with asyncio.timeout(self.k8s_api_request_timeout):
            if self.enable_user_namespaces:
                answer = await self.api.list_pod_for_all_namespaces(**options)
            else:
                answer = await self.api.list_namespaced_pod(self.namespace, **options)
            if not answer.ok:
                raise ApiException(status=answer.status, reason=answer.reason)
            items: list[dict[str, Any]] = json.loads(await answer.read())["items"]
            return items

    async def delete_pod(self, namespace: str, name: str, uid: str) -> None:
        """Delete a pod, unless another has its name by now; raises one of NO_ANSWER."""
        options = V1DeleteOptions(grace_period_seconds=self.delete_grace_period, preconditions=V1Preconditions(uid=uid))
        try:
            async with asyncio.timeout(self.k8s_api_request_timeout):
                await self.api.delete_namespaced_pod(name, namespace, body=options)
        except ApiException as error:
            if error.status not in {NOT_FOUND, CONFLICT}:
                raise

    async def read_pod_events(self) -> list[Any]:
        """The events of pods of this name, which the cluster keeps for an hour; raises one of NO_ANSWER."""
        field = f"involvedObject.kind=Pod,involvedObject.name={self.pod_name}"
        async with asyncio.timeout(self.k8s_api_request_timeout):
            events: list[Any] = (await self.api.list_namespaced_event(self.namespace, field_selector=field)).items
            return events

    async def _find_pod(self) -> dict[str, Any] | None:
        """The pod, None when there surely is none; raises one of NO_ANSWER when nothing can be known."""
        await self._start_watching_pods()
        pod = self.watched_pod
        if pod is None and (pod := await self._read_pod()) is not None:
            self.log.error("The pod %s does not show in the reflector, which is replaced", self.pod_name)
            await self._start_watching_pods(replace=True)
        return pod

    async def _read_pod(self) -> dict[str, Any] | None:
        """The pod as the API server shows it, None when there is none."""
        async with asyncio.timeout(self.k8s_api_request_timeout):
            answer = await self.api.read_namespaced_pod(self.pod_name, self.namespace, _preload_content=False)
            if answer.status == NOT_FOUND:
                return None
            if not answer.ok:
                raise ApiException(status=answer.status, reason=answer.reason)
            pod: dict[str, Any] = json.loads(await answer.read())
            return pod

    async def _start_watching_pods(self, replace: bool = False) -> Any:
        return await self._start_reflector(
            kind="pods",
            reflector_class=LeasePodReflector,
            labels={"component": self.component_label},
            omit_namespace=self.enable_user_namespaces,
            replace=replace,
        )


def lease_of(pod: Mapping[str, Any] | None) -> str | None:
    """The lease that a pod runs under; None for no pod, and for one that is not ours."""
    return (pod["metadata"].get("annotations") or {}).get(LEASE) if pod else None


def _is_away(error: ApiException) -> bool:
    """Whether the API server, or the etcd behind it, may well answer a little later."""
    return bool(error.status >= INTERNAL_SERVER_ERROR or error.status == TOO_MANY_REQUESTS)


def _exit_status(pod: Mapping[str, Any]) -> int:
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    codes = [((status.get("state") or {}).get("terminated") or {}).get("exitCode") for status in statuses]
    return next((code for code in codes if code is not None), STATUS_UNKNOWN)
