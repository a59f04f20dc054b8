"""An environment with the pipeline image's packages, and runs of notebooks in it.

Made from the image's locked requirements when it is missing, and kept under the name of what they say.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat

from tests.notebooks.notebook_runs import (
    EXAMPLE_NOTEBOOKS,
    KERNEL_START_SECONDS,
    OUTPUT_LAG_SECONDS,
    ROOT,
    NotebookRun,
    kernel_environment,
)

LOCKS = [ROOT / "images" / "requirements" / f"{layer}.lock" for layer in ("lab", "catalogue", "roman")]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def pipeline_python() -> Path:
    """The environment's Python; whoever comes while another makes it waits."""
    name = hashlib.sha256(b"".join(lock.read_bytes() for lock in LOCKS)).hexdigest()[:12]
    environment = CACHE / f"meridian-pipeline-{name}"
    with _alone(environment.with_suffix(".lock")):
        if not environment.exists():
            part = environment.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            _make(part)
            part.rename(environment)
    return environment / "bin" / "python"


def run_in_pipeline(name: str, output: Path, **parameters: Any) -> NotebookRun:
    """Run a notebook where the pipeline is installed, with its defaults but for these parameters, into a folder."""
    executed = output / "executed.ipynb"
    terms = {
        "input_path": str(EXAMPLE_NOTEBOOKS / f"{name}.ipynb"),
        "output_path": str(executed),
        "parameters": {"output_dir": str(output), **parameters},
        "cwd": str(output),
        "progress_bar": False,
        "start_timeout": KERNEL_START_SECONDS,
        "iopub_timeout": OUTPUT_LAG_SECONDS,
    }
    code = f"import json, papermill; papermill.execute_notebook(**json.loads({json.dumps(terms)!r}))"
    done = python_in_pipeline(code, {})
    assert done.returncode == 0, done.stderr[-4000:]
    return NotebookRun(nbformat.read(executed, 4), output)


def python_in_pipeline(code: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run some Python where the pipeline is installed, with these variables beside those of kernels."""
    return subprocess.run(
        [str(pipeline_python()), "-c", code],
        env=dict(os.environ) | kernel_environment() | dict(environment),
        capture_output=True,
        text=True,
        check=False,
    )


def _make(environment: Path) -> None:
    locked = [part for lock in LOCKS for part in ("--requirement", str(lock))]
    options = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--quiet"]
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = str(environment / "bin" / "python")
    uv = _uv()
    if uv:
        subprocess.run([uv, "pip", "install", "--python", python, *options, *locked], check=True)
    else:
        subprocess.run([python, "-m", "pip", "install", *options, *locked], check=True)


def _uv() -> str | None:
    """The project's uv, which is among its development tools, or the system's."""
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else shutil.which("uv")


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
