"""Sweeps for scripts: one notebook over many sets of parameters, submitted, followed and gathered as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from hub.batch.model import ChainedRun, Source
from hub.batch.service import ServiceUnavailableError, call, json_of
from hub.batch.submissions import Terms, to_body
from hub.batch.tables import read_table, to_csv, write_parquet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import httpx

POLL_SECONDS = 2.0
# How long `wait` goes on asking a service that does not answer, e.g. while it is upgraded.
PATIENCE_SECONDS = 300.0


@dataclass(frozen=True)
class Sweep:
    """A sweep as the allocations service tells it; `counts` of its runs by state, money in microcredits."""

    id: str
    allocation: str
    allocation_name: str
    name: str
    size: str
    rows: int
    at_once: int | None
    max_seconds: int
    parameters: dict[str, Any]
    varied: tuple[str, ...]
    state: str
    counts: dict[str, int]
    ended: int
    failed: int
    waiting_reason: str | None
    submitted_at: str
    started_at: str | None
    ended_at: str | None
    seconds_left: int | None
    held_microcredits: int
    charged_microcredits: int
    retries: int
    source: Source | None
    environment: tuple[str, ...]
    output: str | None
    waits_for: str | None
    after: tuple[ChainedRun, ...]
    followed_by: tuple[ChainedRun, ...]

    @property
    def active(self) -> bool:
        """Whether runs of it are still to end."""
        return self.ended < self.rows

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Sweep:
        """Fields that this version does not know are left out. Raises KeyError when one is absent."""
        fields = {name: data[name] for name in cls.__dataclass_fields__}
        made = {
            "varied": tuple(fields["varied"]),
            "source": Source.from_json(fields["source"]) if fields["source"] else None,
            "environment": tuple(fields["environment"]),
            "after": tuple(ChainedRun.from_json(one) for one in fields["after"]),
            "followed_by": tuple(ChainedRun.from_json(one) for one in fields["followed_by"]),
        }
        return cls(**{**fields, **made})


class SweepClient:
    """A person's sweeps: `BatchClient.sweeps`. Every method raises what those of BatchClient do."""

    def __init__(
        self,
        http: httpx.Client,
        send: Callable[[str, Mapping[str, Any], str | None], dict[str, Any]],
        sleep: Callable[[float], None],
        monotonic: Callable[[], float],
    ) -> None:
        self._http = http
        self._send = send
        self._sleep = sleep
        self._monotonic = monotonic

    def estimate(
        self,
        allocation: str,
        size: str,
        runs: int,
        *,
        name: str = "",
        max_seconds: int | None = None,
        retries: int = 0,
    ) -> dict[str, Any]:
        """What so many runs would hold and likely cost, beside what the allocation has free; nothing is submitted.

        name: of the notebook, by whose earlier runs the likely cost is told.
        """
        body = {
            "allocation": allocation,
            "size": size,
            "runs": runs,
            "name": name,
            "max_seconds": max_seconds,
            "retries": retries,
        }
        return json_of(call(self._http, "POST", "/sweeps/estimate", json=body))

    def submit(
        self,
        notebook: Path | str,
        allocation: str,
        size: str,
        *,
        rows: Sequence[Mapping[str, Any]] | Path | str | None = None,
        grid: Mapping[str, Sequence[Any]] | None = None,
        at_once: int | None = None,
        idempotency_key: str | None = None,
        **terms: Unpack[Terms],
    ) -> Sweep:
        """Queue a run for each row, all or none. An answer that gets lost is asked for again, and queues nothing twice.

        notebook: as for `BatchClient.submit`. rows: parameters of each run, or the path of a CSV or Parquet file of
        them. grid: in place of rows, every combination of its values. at_once: how many may run together. terms: what
        all runs have in common, as `Terms` has them; with `after`, the sweep waits as a whole.
        """
        body = to_body(notebook, allocation, size, terms) | {
            "rows": read_table(Path(rows)) if isinstance(rows, Path | str) else rows and [dict(row) for row in rows],
            "grid": grid and {one: list(values) for one, values in grid.items()},
            "at_once": at_once,
        }
        return Sweep.from_json(self._send("/sweeps", body, idempotency_key))

    def list(self) -> list[Sweep]:
        """All of the person's sweeps, newest first."""
        found: list[Sweep] = []
        before = ""
        while True:
            page = json_of(call(self._http, "GET", f"/sweeps{before}"))
            found += [Sweep.from_json(one) for one in page["sweeps"]]
            if page["next_before"] is None:
                return found
            before = f"?before={page['next_before']}"

    def get(self, sweep_id: str) -> Sweep:
        return self._sweep("GET", sweep_id)

    def cancel(self, sweep_id: str) -> Sweep:
        """Cancel what waits, and ask what runs to stop, all in one act."""
        return self._sweep("POST", sweep_id, "/cancel")

    def retry(
        self,
        sweep_id: str,
        *,
        size: str | None = None,
        max_seconds: int | None = None,
        include_cancelled: bool = False,
        idempotency_key: str | None = None,
    ) -> Sweep:
        """Queue the runs that failed or timed out again, on another size or for longer when that is given."""
        body = {"size": size, "max_seconds": max_seconds, "include_cancelled": include_cancelled}
        return Sweep.from_json(self._send(_path(sweep_id, "/retry"), body, idempotency_key))

    def results(self, sweep_id: str) -> Iterator[dict[str, Any]]:
        """Each row with its parameters, what its run recorded, how it ended and what it cost, page by page."""
        after = -1
        while True:
            page = json_of(call(self._http, "GET", _path(sweep_id, f"/results?after={after}")))
            yield from page["results"]
            if page["next_after"] is None:
                return
            after = page["next_after"]

    def save_results(self, sweep_id: str, path: Path | str) -> Path:
        """Write the table of results, as Parquet or CSV by the path's suffix, and return where. Raises TableError."""
        target = Path(path)
        results = list(self.results(sweep_id))
        if target.suffix.lower() in (".parquet", ".pq"):
            write_parquet(results, target)
        else:
            target.write_text(to_csv(results), encoding="utf-8")
        return target

    def wait(
        self, sweep_id: str, callback: Callable[[Sweep], None] | None = None, *, poll_seconds: float = POLL_SECONDS
    ) -> Sweep:
        """Wait until all runs have ended, however they ended, and return the sweep.

        `callback` is told the sweep each time. A service that does not answer is asked again for five minutes, then
        ServiceUnavailableError is raised; the sweep goes on.
        """
        heard_at = self._monotonic()
        while True:
            try:
                sweep = self.get(sweep_id)
            except ServiceUnavailableError:
                if self._monotonic() - heard_at > PATIENCE_SECONDS:
                    raise
            else:
                heard_at = self._monotonic()
                if callback:
                    callback(sweep)
                if not sweep.active:
                    return sweep
            self._sleep(poll_seconds)

    def _sweep(self, method: str, sweep_id: str, part: str = "") -> Sweep:
        return Sweep.from_json(json_of(call(self._http, method, _path(sweep_id, part))))


def _path(sweep_id: str, part: str = "") -> str:
    """The path of a sweep; an id with a slash or a question mark cannot lead to another one."""
    quoted = sweep_id.replace("/", "%2F").replace("?", "%3F").replace("#", "%23")
    return f"/sweeps/{quoted}{part}"
