"""A notebook run through the API until it is settled, against papermill as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from benchmarks.platforms import our_platform
from benchmarks.report import Comparison, Report, Section, Share
from hub.batch.client import BatchClient

if TYPE_CHECKING:
    from benchmarks.report import Step
    from hub.batch.model import Run
    from tests.e2e.platform import Person

PAIRS, PAIRS_QUICK = 5, 1
# How long a notebook computes on beyond its own second, and what that is called.
LENGTHS = {"One run": 0, "One run of ten seconds": 8}
POLL_SECONDS = 0.05
MAX_SECONDS = 600
COMPARES = (
    "a notebook of seven cells with numpy, submitted through the API until it is settled, against "
    "`papermill in.ipynb out.ipynb` as a process; one thread for numpy on both sides."
)
# Dark-subtract, clip and stack a few small frames, then measure: what a first batch run looks like.
CELLS = (
    "frames, side = 8, 512\nseed = 7\nseconds = 0",
    "import numpy as np\nrandom = np.random.default_rng(seed)",
    "sky = random.poisson(100, (frames, side, side)).astype(float)\nsky[:, ::64, ::64] += 5000",
    "middle = np.median(sky, axis=0)\nspread = sky.std(axis=0)\nkept = np.abs(sky - middle) <= 3 * spread",
    "stack = np.where(kept, sky, 0).sum(axis=0) / kept.sum(axis=0)\nspectrum = np.abs(np.fft.rfft2(stack))",
    "import time\nends_at = time.monotonic() + seconds\nwhile time.monotonic() < ends_at: np.fft.rfft2(stack)",
    'sources = int((stack > 1000).sum())\nprint(f"{sources} sources, background {np.median(stack):.1f}")',
)


@dataclass(frozen=True, slots=True)
class Parts:
    """Where the time of a run of ours went. Seconds."""

    total: float
    submit: float
    queue: float
    start: float
    run: float
    finish: float


def steps(*, quick: bool) -> int:
    """Return how many steps of the progress bar `run` makes."""
    return 1 + 2 * len(LENGTHS) * (1 + (PAIRS_QUICK if quick else PAIRS))


def run(step: Step, *, quick: bool) -> Report:
    """Measure pairs of runs; the first pair, on fresh homes, only warms up."""
    step("starting the platform")
    with TemporaryDirectory(prefix="meridian-bench-") as name, our_platform() as platform:
        notebook = Path(name) / "in.ipynb"
        person = platform.person("researcher")
        allocation = person.accept_agreement()["id"]
        sections = []
        with closing(BatchClient(platform.url, person.token)) as client:
            for title, seconds in LENGTHS.items():
                _write_notebook(notebook, seconds)
                ours: list[Parts] = []
                theirs: list[float] = []
                for pair in range(1 + (PAIRS_QUICK if quick else PAIRS)):
                    step(f"{title}: ours")
                    ours.append(_our_run(client, person, notebook, allocation))
                    step(f"{title}: papermill's")
                    theirs.append(_papermill(notebook))
                    if pair == 0:
                        ours.clear()
                        theirs.clear()
                sections.append(_section(title, ours, theirs))
        platform.audit()
    return Report("batch", COMPARES, "papermill", sections, ["The ledger audit is clean."])


def _section(title: str, ours: list[Parts], theirs: list[float]) -> Section:
    overheads = [one.total - other for one, other in zip(ours, theirs, strict=True)]
    return Section(
        title,
        [Comparison("submitted to settled", "s", [one.total for one in ours], theirs)],
        [
            Share("overhead: ours minus theirs", "s", overheads),
            Share("submit: sent to queued", "s", [one.submit for one in ours]),
            Share("queue: queued to held lease", "s", [one.queue for one in ours]),
            Share("start: held lease to runner", "s", [one.start for one in ours]),
            Share("run: runner's first to last moment", "s", [one.run for one in ours]),
            Share("finish: runner's end to settled", "s", [one.finish for one in ours]),
        ],
    )


def _our_run(client: BatchClient, person: Person, notebook: Path, allocation: str) -> Parts:
    begin = datetime.now(UTC)
    submitted = client.submit(notebook, allocation, "small", max_seconds=MAX_SECONDS)
    ended = client.wait(submitted.id, poll_seconds=POLL_SECONDS)
    seen = datetime.now(UTC)
    if ended.state != "succeeded":
        raise RuntimeError(f"The run {ended.state}: {ended.error}")
    return _parts(ended, begin, _held_at(person, ended), seen)


def _parts(run: Run, begin: datetime, held: datetime, seen: datetime) -> Parts:
    assert run.submitted_at, "a run was submitted"
    assert run.started_at, "a run that succeeded has started"
    assert run.ended_at, "a run that succeeded has ended"
    submitted, started, ended = map(datetime.fromisoformat, (run.submitted_at, run.started_at, run.ended_at))
    return Parts(
        total=(seen - begin).total_seconds(),
        submit=(submitted - begin).total_seconds(),
        queue=(held - submitted).total_seconds(),
        start=(started - held).total_seconds(),
        run=(ended - started).total_seconds(),
        finish=(seen - ended).total_seconds(),
    )


def _held_at(person: Person, run: Run) -> datetime:
    lease = person.call("GET", f"/leases/{run.lease}").raise_for_status().json()
    return datetime.fromisoformat(lease["acquired_at"])


def _papermill(notebook: Path) -> float:
    """Return the seconds of the whole process."""
    binaries = Path(sys.executable).parent
    environment = {
        "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "HOME": str(notebook.parent),
        "OMP_NUM_THREADS": "1",
    }
    command = [binaries / "papermill", notebook, notebook.with_name("out.ipynb")]
    begin = time.perf_counter()
    done = subprocess.run(command, env=environment, cwd=notebook.parent, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"papermill ended with status {done.returncode}: {done.stderr}")
    return time.perf_counter() - begin


def _write_notebook(path: Path, seconds: int) -> None:
    """Write the notebook, which computes on for so long."""
    cells: list[dict[str, object]] = [
        {
            "cell_type": "code",
            "id": f"cell-{number}",
            "metadata": {} if number else {"tags": ["parameters"]},
            "source": source,
            "outputs": [],
            "execution_count": None,
        }
        for number, source in enumerate((CELLS[0].replace("seconds = 0", f"seconds = {seconds}"), *CELLS[1:]))
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(notebook))
