"""Runs as Jobs of Kubernetes: one for each attempt, found again by its name and labels after any restart.

What a run makes, it writes into its folder of the run store, which its pod mounts: so its log, its notebook and its
result are where they are read before the pod is gone, whoever is away at that moment, and a pod needs no token. The
API server holds the times to charge: a finalizer keeps each pod's status until its end has been reported.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import time
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hub
from hub.batch.backend import BackendUnavailableError, Exited, Gone, StartError, StartRefusedError
from hub.batch.cluster import ClusterRefusalError
from hub.batch.environment import forget, give, is_wanted
from hub.batch.files import RunDirectory, RunDirectoryError, notebook_of, spec_of
from hub.batch.jobs import (
    ATTEMPT,
    EXECUTOR,
    FINALIZER,
    RUN,
    job_name,
    key_of,
    make_claim,
    make_job,
    sight_of_claimed,
    sight_of_unclaimed,
)
from hub.batch.model import now_utc
from hub.batch.observe import run_fields
from hub.batch.service import ServiceError
from hub.spawner.manifests import GROUP, label_value, pod_end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from hub.batch.backend import Sight
    from hub.batch.cluster import Cluster
    from hub.batch.environment import Given
    from hub.batch.jobs import JobSettings
    from hub.batch.model import Run
    from hub.client import Lease

logger = logging.getLogger("meridian.batch")
CONFLICT = 409
FORBIDDEN = 403
# One look at the API server serves all runs for so long.
SNAPSHOT_SECONDS = 0.5
AWAY_SECONDS = 1.0
# After an order to end: the node's own time to carry it out.
KILL_GRACE_SECONDS = 1
RUNNER_MODULES = (
    "__init__",
    "ends",
    "environment",
    "files",
    "model",
    "notebook",
    "outputs",
    "processes",
    "provenance",
    "record",
    "runner",
)
RUNNER_MAIN = "import sys\nfrom hub.batch.runner import main\nsys.exit(main(sys.argv[1:]))\n"

Key = tuple[str, int]


@dataclass(frozen=True)
class Snapshot:
    """The Jobs and pods of this executor, by run (as a label) and attempt."""

    taken_at: float
    jobs: dict[Key, dict[str, Any]]
    pods: dict[Key, list[dict[str, Any]]]

    def keys(self, run: str) -> list[Key]:
        """The attempts of a run of which something is there."""
        return sorted(key for key in self.jobs.keys() | self.pods.keys() if key[0] == run)


class KubeBackend:
    """Starts runners as Jobs. store: the run store. lease_of, environment_of: of a claimed run, from the service."""

    outlives = True

    def __init__(
        self,
        cluster: Cluster,
        terms: JobSettings,
        store: Path,
        executor: str,
        lease_of: Callable[[Run], Lease],
        environment_of: Callable[[Run], Given] | None = None,
        *,
        clock: Callable[[], datetime] = now_utc,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._terms = terms
        self._store = store
        self._executor = executor
        self._lease_of = lease_of
        self._environment_of = environment_of
        self._clock = clock
        self._monotonic = monotonic
        self._jobs = f"/apis/batch/v1/namespaces/{terms.namespace}/jobs"
        self._pods = f"/api/v1/namespaces/{terms.namespace}/pods"
        self._claims = f"/api/v1/namespaces/{terms.namespace}/persistentvolumeclaims"
        self._snapshot: Snapshot | None = None
        self._failure: str | None = None
        self._failed_at = 0.0
        self._runner = write_runner(store)

    def start(self, run: Run) -> None:
        self._end_earlier(run)
        lease = self._lease_of(run)
        if run.is_given and self._environment_of is not None:
            # Not kept: a run whose secrets are gone takes no pod, and the others get theirs when they ask.
            self._environment_of(run)
        try:
            directory = RunDirectory.of(self._store, run.id)
            directory.prepare(spec_of(run, Path(self._terms.home_path)), notebook_of(self._store, run))
            share(directory)
            self._ensure_home(run)
            job = make_job(run, lease, self._terms, self._executor, self._runner)
            self._cluster.create(self._jobs, job)
        except ClusterRefusalError as error:
            # A Job of this name is this attempt's: made before a crash, or before an answer that got lost.
            if error.status != CONFLICT:
                msg = f"Run {run.id} cannot be started: {error}"
                raise StartError(msg) from error
        except (RunDirectoryError, OSError) as error:
            msg = f"Run {run.id} cannot be started: {error}"
            raise StartError(msg) from error
        self._snapshot = None

    def look(self, run: Run) -> Sight:
        directory = RunDirectory.of(self._store, run.id)
        key = (label_value(run.id), run.attempt)
        seen = self._seen()
        name = directory.claimed_by(run.attempt)
        if name is None:
            return sight_of_unclaimed(seen.jobs.get(key), seen.pods.get(key, []), self._terms, self._clock())
        if run.is_given and is_wanted(directory, run.attempt):
            self._give(run, directory)
        pod = _named(name, seen.pods.get(key, []))
        if pod is None:
            # It may be younger than what was seen.
            self._snapshot = None
            pod = _named(name, self._seen().pods.get(key, []))
        # The result is read after the pod was seen: one that ends between the two has written it.
        result = directory.read_result(run.attempt)
        if pod is None:
            return Exited(result) if result else Gone("Its pod is gone.")
        return sight_of_claimed(run, pod, result, self._clock())

    def stop(self, run_id: str, *, kill: bool) -> None:
        seen = self._seen()
        for key in seen.keys(label_value(run_id)):
            self._end(run_id, key, seen, kill=kill)

    def _give(self, run: Run, directory: RunDirectory) -> None:
        """Give a runner that has begun its secrets; it waits while the service does not answer."""
        assert self._environment_of is not None
        try:
            text = self._environment_of(run).to_text()
        except StartRefusedError as refused:
            text = json.dumps({"missing": str(refused)})
        except ServiceError as error:
            logger.warning("%s", error, extra=run_fields(run))
            return
        give(directory, text, GROUP)

    def release(self, run_id: str) -> None:
        # A stray's id is what somebody's label says.
        with suppress(RunDirectoryError):
            forget(RunDirectory.of(self._store, run_id))
        self._snapshot = None
        seen = self._seen()
        for key in seen.keys(label_value(run_id)):
            self._remove(run_id, key, seen)

    def running(self) -> set[str]:
        self._snapshot = None
        seen = self._seen()
        pods = {key for key, pods in seen.pods.items() if not all(map(_is_released, pods))}
        # The ids of runs are labels as they are.
        return {run for run, _ in seen.jobs.keys() | pods}

    def _ensure_home(self, run: Run) -> None:
        """Make the claim of a home that is not there. ClusterRefusalError when it can't be had."""
        if self._terms.home_claim is None:
            return
        claim = make_claim(run, self._terms.home_claim)
        try:
            self._cluster.create(self._claims, claim)
        except ClusterRefusalError as error:
            if error.status == FORBIDDEN:
                # A quota that is used up forbids even what is there already.
                self._cluster.get(f"{self._claims}/{claim['metadata']['name']}")
            elif error.status != CONFLICT:
                raise

    def _list(self, path: str, ours: str, now: float) -> list[dict[str, Any]]:
        """The objects of a kind. After a failure all runs are told the same for a second: each would wait as long."""
        if self._failure is not None and now - self._failed_at < AWAY_SECONDS:
            raise BackendUnavailableError(self._failure)
        self._failure = None
        try:
            items: list[dict[str, Any]] = self._cluster.get(path, labelSelector=ours)["items"]
        except BackendUnavailableError as error:
            self._failure, self._failed_at = str(error), self._monotonic()
            raise
        return items

    def _end_earlier(self, run: Run) -> None:
        """Remove what is left of other attempts. BackendUnavailableError while one may still write to the folder."""
        self._snapshot = None
        seen = self._seen()
        for key in seen.keys(label_value(run.id)):
            if key[1] == run.attempt:
                continue
            self._end(run.id, key, seen, kill=True)
            if self._living(seen.pods.get(key, [])):
                msg = f"Attempt {key[1]} of run {run.id} is still being stopped."
                raise BackendUnavailableError(msg)
            self._remove(run.id, key, seen)

    def _living(self, pods: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """The pods that may still do something: deleted before it had a node, one never will."""
        return [
            pod
            for pod in pods
            if pod_end(pod, self._clock()) is None
            and ("deletionTimestamp" not in pod["metadata"] or pod["spec"].get("nodeName"))
        ]

    def _end(self, run_id: str, key: Key, seen: Snapshot, *, kill: bool) -> None:
        if seen.jobs.get(key, {}).get("spec", {}).get("parallelism"):
            # No pod then, and none in the place of one that is deleted; Jobs have no `suspend` before 1.21.
            self._cluster.patch(self._job(run_id, key), {"spec": {"parallelism": 0}})
        if kill:
            for pod in self._living(seen.pods.get(key, [])):
                self._cluster.delete(self._pod(pod), gracePeriodSeconds=KILL_GRACE_SECONDS)
        self._snapshot = None

    def _remove(self, run_id: str, key: Key, seen: Snapshot) -> None:
        """Let the API server forget an attempt; killed in between, the rest is found and removed as a stray.

        The Job first, or it would make a pod in the place of each that goes.
        """
        self._cluster.delete(self._job(run_id, key), propagationPolicy="Background")
        for pod in seen.pods.get(key, []):
            self._cluster.patch(self._pod(pod), {"metadata": {"finalizers": None}})
            self._cluster.delete(self._pod(pod), gracePeriodSeconds=KILL_GRACE_SECONDS)
        self._snapshot = None

    def _job(self, run_id: str, key: Key) -> str:
        return f"{self._jobs}/{job_name(run_id, key[1])}"

    def _pod(self, pod: dict[str, Any]) -> str:
        return f"{self._pods}/{pod['metadata']['name']}"

    def _seen(self) -> Snapshot:
        now = self._monotonic()
        if self._snapshot is None or now - self._snapshot.taken_at > SNAPSHOT_SECONDS:
            ours = f"{EXECUTOR}={label_value(self._executor)},{RUN},{ATTEMPT}"
            # The Jobs first: a pod that is made in between has its Job here.
            jobs = self._list(self._jobs, ours, now)
            pods = self._list(self._pods, ours, now)
            by_key: dict[Key, list[dict[str, Any]]] = {}
            for pod in pods:
                by_key.setdefault(key_of(pod), []).append(pod)
            self._snapshot = Snapshot(now, {key_of(job): job for job in jobs}, by_key)
        return self._snapshot


def write_runner(store: Path) -> str:
    """Put the runner's code into the store, where pods of any image find it, and return its name there."""
    root = Path(hub.__path__[0])
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        # Without the time of writing: the same code has the same name.
        for name, text in {
            "__main__.py": RUNNER_MAIN,
            "hub/__init__.py": (root / "__init__.py").read_text(encoding="utf-8"),
            **{f"hub/batch/{one}.py": (root / f"batch/{one}.py").read_text(encoding="utf-8") for one in RUNNER_MODULES},
        }.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    name = f".runner-{hashlib.sha256(content.getvalue()).hexdigest()[:16]}.pyz"
    path = store / name
    if not path.exists():
        partial = path.with_name(f"{name}.{os.getpid()}")
        partial.write_bytes(content.getvalue())
        partial.chmod(0o644)
        partial.replace(path)
    return name


def share(directory: RunDirectory) -> None:
    """Let the pod's group write into the folder of its run, and the service go on reading the log.

    An earlier attempt's notebook may have put a link or a pipe in its place: OSError or RunDirectoryError then.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    log = os.open(directory.log, flags, 0o660)
    try:
        if os.fstat(log).st_uid == os.geteuid():
            os.fchown(log, -1, GROUP)
            os.fchmod(log, 0o660)
    finally:
        os.close(log)
    for path in (directory.input, directory.spec):
        if path.is_symlink():
            msg = f"{path} is a link."
            raise RunDirectoryError(msg)
        os.chown(path, -1, GROUP, follow_symlinks=False)
        path.chmod(0o640)
    os.chown(directory.path, -1, GROUP)
    directory.path.chmod(0o2770)


def _is_released(pod: dict[str, Any]) -> bool:
    """Whether nothing is left to do for a pod but to wait for its node, which may take a minute."""
    metadata = pod["metadata"]
    return "deletionTimestamp" in metadata and FINALIZER not in (metadata.get("finalizers") or [])


def _named(name: str, pods: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    return next((pod for pod in pods if pod["metadata"]["name"] == name), None)
