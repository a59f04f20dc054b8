"""Nodes without kubelets, for many pods: kept ready, their pods shown as running and let go, by one thread."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import jupyterhub
from aiohttp import ClientError, web
from kubernetes_asyncio import client
from kubernetes_asyncio.config import load_kube_config

from benchmarks.platforms import LOOPBACK
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

PODS_PER_NODE = 110
BEAT_SECONDS = 10.0
READY_SECONDS = 60.0
AT_ONCE, ATTEMPTS = 16, 10
TOO_MANY_REQUESTS, SERVER_ERROR = 429, 500
LABEL = "meridian/fake-node"
POD_LABELS = "component=singleuser-server"
ROOM = {"cpu": "256", "memory": "1Ti", "pods": str(PODS_PER_NODE)}


class FakeNodes:
    """The nodes of one name, and one process's answers in the place of all servers in their pods."""

    def __init__(self, name: str, count: int) -> None:
        self.name = name
        self.port = free_port()
        self.node_selector = {LABEL: name}
        self.tolerations = [{"key": LABEL, "operator": "Equal", "value": name, "effect": "NoSchedule"}]
        self.ready = threading.Event()
        self._names = frozenset(f"{name}-{number:02}" for number in range(count))
        self._done: set[tuple[str, str]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(AT_ONCE)
        self._stopped = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self) -> None:
        """Be the nodes until `stop`, then remove them; for a thread of its own."""
        asyncio.run(self._run())

    def stop(self) -> None:
        """Ask the thread to end."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stopped.set)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        await load_kube_config()
        async with client.ApiClient() as api:
            core: Any = client.CoreV1Api(api)
            answers = await self._answer()
            try:
                for name in sorted(self._names):
                    taint = {"key": LABEL, "value": self.name, "effect": "NoSchedule"}
                    await core.create_node(
                        {"metadata": {"name": name, "labels": self.node_selector}, "spec": {"taints": [taint]}}
                    )
                going = [asyncio.create_task(one) for one in (self._beat(core), self._watch(core))]
                await self._stopped.wait()
                for task in [*going, *self._tasks]:
                    task.cancel()
                await asyncio.gather(*going, *self._tasks, return_exceptions=True)
            finally:
                await self._remove(core)
                await answers.cleanup()

    async def _answer(self) -> web.AppRunner:
        """Answer as a server does whom its hub asks whether it is up."""

        async def answer(_request: web.Request) -> web.Response:
            return web.json_response({"version": "2"}, headers={"X-JupyterHub-Version": jupyterhub.__version__})

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, LOOPBACK, self.port).start()
        return runner

    async def _beat(self, core: Any) -> None:
        """Tell that the nodes are well, as a kubelet does every few seconds."""
        while True:
            condition = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": _now()}
            status = {"conditions": [condition], "capacity": ROOM, "allocatable": ROOM}
            for name in self._names:
                await _send(core.patch_node_status, name, {"status": status})
            self.ready.set()
            await asyncio.sleep(BEAT_SECONDS)

    async def _watch(self, core: Any) -> None:
        """Watch the pods of servers; a watch that ends begins anew and shows those that are there."""
        while True:
            with suppress(client.ApiException, ClientError, TimeoutError):
                async for pod in _pods(core):
                    self._attend(core, pod)
            await asyncio.sleep(0.1)

    def _attend(self, core: Any, pod: dict[str, Any]) -> None:
        metadata = pod["metadata"]
        if pod["spec"].get("nodeName") not in self._names:
            return
        what = "let go" if "deletionTimestamp" in metadata else "run"
        if (metadata["uid"], what) in self._done:
            return
        self._done.add((metadata["uid"], what))
        task = asyncio.create_task(self._let_go(core, metadata) if what == "let go" else self._run_pod(core, pod))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_pod(self, core: Any, pod: dict[str, Any]) -> None:
        now, metadata = _now(), pod["metadata"]
        states = [
            {
                "name": one["name"],
                "image": one["image"],
                "imageID": one["image"],
                "ready": True,
                "restartCount": 0,
                "state": {"running": {"startedAt": now}},
            }
            for one in pod["spec"]["containers"]
        ]
        conditions = [{"type": of, "status": "True", "lastTransitionTime": now} for of in ("Ready", "ContainersReady")]
        status = {"phase": "Running", "podIP": LOOPBACK, "containerStatuses": states, "conditions": conditions}
        async with self._room:
            await _send(core.patch_namespaced_pod_status, metadata["name"], metadata["namespace"], {"status": status})

    async def _let_go(self, core: Any, metadata: dict[str, Any]) -> None:
        async with self._room:
            await _send(core.delete_namespaced_pod, metadata["name"], metadata["namespace"], grace_period_seconds=0)

    async def _remove(self, core: Any) -> None:
        async for pod in _pods(core, watch=False):
            if pod["spec"].get("nodeName") in self._names:
                await self._let_go(core, pod["metadata"])
        for name in self._names:
            with suppress(client.ApiException):
                await core.delete_node(name)


@contextmanager
def fake_nodes(pods: int) -> Iterator[FakeNodes]:
    """Run as many nodes as so many pods need; removed at the end, with their pods."""
    nodes = FakeNodes(f"meridian-bench-{uuid.uuid4().hex[:8]}", -(-pods // PODS_PER_NODE))
    thread = threading.Thread(target=nodes.run, daemon=True)
    thread.start()
    try:
        if not nodes.ready.wait(READY_SECONDS):
            raise TimeoutError("The fake nodes could not be registered.")
        yield nodes
    finally:
        nodes.stop()
        thread.join(READY_SECONDS)


async def _pods(core: Any, *, watch: bool = True) -> AsyncIterator[dict[str, Any]]:
    """The pods of servers as JSON: those that there are now, or (watch) each as often as it changes."""
    answer = await core.list_pod_for_all_namespaces(
        label_selector=POD_LABELS, watch=watch, _preload_content=False, _request_timeout=None
    )
    if not watch:
        for pod in json.loads(await answer.read())["items"]:
            yield pod
        return
    # Longer than aiohttp's own limit of a line.
    rest = b""
    async for chunk in answer.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            event = json.loads(line)
            if event["type"] in {"ADDED", "MODIFIED"}:
                yield event["object"]


async def _send(call: Any, *what: Any, **options: Any) -> None:
    """Tell the API server, without making objects of its answer; again while it has no room for it."""
    for _ in range(ATTEMPTS):
        with suppress(ClientError, TimeoutError):
            answer = await call(*what, _preload_content=False, **options)
            await answer.read()
            if answer.status != TOO_MANY_REQUESTS and answer.status < SERVER_ERROR:
                return
        await asyncio.sleep(0.5)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
