"""What the batch commands share: the terminal, and the client of whoever types them."""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from hub.batch.client import BatchClient, NotebookError, ServiceError, SettingsError
from hub.batch.parameters import ParameterError
from hub.batch.tables import TableError

if TYPE_CHECKING:
    from collections.abc import Iterator

MICROCREDITS_PER_CREDIT = 1_000_000
# A pipe has no width to fit into: ids must stay whole there.
PIPE_WIDTH = 200
out = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH)
err = Console(stderr=True)


def credentials() -> Path:
    """Where `meridian login` keeps a token."""
    return Path(os.environ.get("XDG_CONFIG_HOME", str(Path.home() / ".config"))) / "meridian" / "credentials.json"


@contextmanager
def open_client() -> Iterator[BatchClient]:
    """Open the client by the environment, else by what `meridian login` kept; errors become one sentence."""
    environment = dict(os.environ)
    kept = credentials()
    if "MERIDIAN_TOKEN" not in environment and "JUPYTERHUB_API_TOKEN" not in environment and kept.exists():
        environment |= json.loads(kept.read_text())
    try:
        with BatchClient.from_environment(environment) as client:
            yield client
    except SettingsError as error:
        fail(f"{error} Or sign in once with `meridian login`.")
    except (ServiceError, NotebookError, ParameterError, TableError) as error:
        fail(str(error))


def fail(sentence: str) -> None:
    """End the command with one sentence."""
    err.print(f"meridian: {sentence}", highlight=False, soft_wrap=True)
    sys.exit(1)
