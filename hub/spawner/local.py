"""Servers as processes of this machine, for trying and for development: people are not isolated."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import gettempdir, mkdtemp
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from jupyterhub.spawner import SimpleLocalProcessSpawner
from traitlets import List, Unicode, default

from hub.spawner.homes import InvalidHomeError, home_path, prepare_folder, prepare_home
from hub.spawner.mixin import AllocationSpawnerMixin
from hub.spawner.pages import refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hub.client import Lease

IDENTITY_KEY = "process_identity"
RESCUE_KEY = "rescue_folder"
# JupyterLab would ask each person whether it may call home for news, and offer updates that they can't install.
LAB_CONFIG = Path(__file__).parent / "lab_config"
# JupyterLab's extension; in images it is among the environment's own.
LAB_SHARE = Path(__file__).parents[1] / "lab" / "share"
ENVIRONMENT_KEPT = ["LANG", "LC_ALL", "PATH", "TMPDIR", "TZ"]


class LocalAllocationSpawner(AllocationSpawnerMixin, SimpleLocalProcessSpawner):
    """Starts `jupyterhub-singleuser` of the hub's own virtual environment in the person's home."""

    homes_dir = Unicode(
        config=True,
        help="""Directory under which each person has a home, `{homes_dir}/{username}`, made with mode 0700.

        Default: the environment variable MERIDIAN_HOMES.
        """,
    )

    scratch_dir = Unicode(
        config=True,
        help="""Directory under which each allocation has scratch space; empty for none.

        A server sees its own as MERIDIAN_SCRATCH. Default: the environment variable MERIDIAN_SCRATCH_FOLDERS.
        """,
    )

    shared_dir = Unicode(
        config=True,
        help="""Directory under which each allocation has what its members share; empty for none.

        A server sees its own as MERIDIAN_SHARED. Default: the environment variable MERIDIAN_SHARED_FOLDERS.
        """,
    )

    shared_tiers = List(Unicode(), ["consortium"], config=True, help="Tiers whose allocations share a folder.")

    examples_dir = Unicode(
        config=True,
        help="""Directory that is copied to `~/example-notebooks` when that is absent; empty for none.

        Default: the environment variable MERIDIAN_EXAMPLES.
        """,
    )

    server_logs_dir = Unicode(
        "server-logs",
        config=True,
        help="""Directory for the output of servers, one file each, begun anew with each start.

        Servers must not write to the hub's own output: they outlive it, and would fail on a closed pipe.
        """,
    )

    meridian_url = Unicode(
        config=True,
        help="""Public base URL of the platform, for the `meridian` command line in servers.

        Default: the environment variable MERIDIAN_URL.
        """,
    )

    _identity = ""
    _folders: Mapping[str, str] = MappingProxyType({})
    # Where a rescue server writes; empty while there is none.
    _rescue_folder = ""

    @default("homes_dir")
    def _default_homes_dir(self) -> str:
        return os.environ["MERIDIAN_HOMES"]

    @default("scratch_dir")
    def _default_scratch_dir(self) -> str:
        return os.environ.get("MERIDIAN_SCRATCH_FOLDERS", "")

    @default("shared_dir")
    def _default_shared_dir(self) -> str:
        return os.environ.get("MERIDIAN_SHARED_FOLDERS", "")

    @default("examples_dir")
    def _default_examples_dir(self) -> str:
        return os.environ.get("MERIDIAN_EXAMPLES", "")

    @default("meridian_url")
    def _default_meridian_url(self) -> str:
        return os.environ.get("MERIDIAN_URL", "")

    @default("cmd")
    def _default_cmd(self) -> list[str]:
        return [str(Path(sys.prefix) / "bin" / "jupyterhub-singleuser")]

    @default("env_keep")
    def _default_env_keep(self) -> list[str]:
        # An explicit list: whatever else the hub was given, tokens above all, stays with the hub.
        return list(ENVIRONMENT_KEPT)

    @default("home_dir")
    def _default_home_dir(self) -> str:
        return str(home_path(Path(self.homes_dir), self.user.name))

    def apply_lease(self, lease: Lease) -> None:
        """Give the server what the lease pays for, and the folders of its allocation."""
        super().apply_lease(lease)
        shared_dir = self.shared_dir if lease.tier in self.shared_tiers else ""
        self._folders = {
            variable: str(prepare_folder(Path(root), lease.allocation))
            for variable, root in (("MERIDIAN_SCRATCH", self.scratch_dir), ("MERIDIAN_SHARED", shared_dir))
            if root
        }

    def get_args(self) -> list[str]:
        """The spawner class's arguments; a server started by root has to be told that this is intended."""
        args: list[str] = super().get_args()
        return [*args, "--allow-root"] if os.geteuid() == 0 else args

    def get_env(self) -> dict[str, str]:
        """Exactly what the server needs, with the virtual environment's commands first on its PATH."""
        env = super().get_env()
        env["PATH"] = os.pathsep.join([str(Path(sys.prefix) / "bin"), env.get("PATH", os.defpath)])
        env["JUPYTER_CONFIG_PATH"] = str(LAB_CONFIG)
        env["JUPYTER_PATH"] = str(LAB_SHARE)
        if self.meridian_url:
            env["MERIDIAN_URL"] = self.meridian_url
        return env | dict(self._folders)

    def rescue_folders(self) -> tuple[str, str]:
        """A folder of the server's own on /tmp, which goes with it."""
        if not self._rescue_folder:
            self._rescue_folder = mkdtemp(prefix="meridian-rescue-", dir=gettempdir())
        return self._rescue_folder, self._rescue_folder

    async def start(self) -> Any:
        """Make the home, then start within a lease."""
        examples = Path(self.examples_dir) if self.examples_dir else None
        try:
            await asyncio.to_thread(prepare_home, Path(self.homes_dir), self.user.name, examples)
        except InvalidHomeError as error:
            raise refusal(str(error), code="invalid_name", status=400) from error
        # JupyterHub's server names have no underscore, so none can stand for the default server's.
        log = Path(self.server_logs_dir) / self.user.name / f"{self.name or '_default'}.log"
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            # Each server gets a session of its own from JupyterHub: signals to the hub do not reach it.
            self.popen_kwargs |= {"stdin": subprocess.DEVNULL, "stdout": descriptor, "stderr": subprocess.STDOUT}
            return await super().start()
        finally:
            os.close(descriptor)

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up the process with the identity that tells it from a later one of the same number."""
        super().load_state(state)
        self._identity = state.get(IDENTITY_KEY, "")
        self._rescue_folder = state.get(RESCUE_KEY, "")

    def get_state(self) -> dict[str, Any]:
        """The process id, the identity of its process, and the lease."""
        state = super().get_state()
        if self.pid:
            # Read once, while the process is surely ours.
            self._identity = self._identity or _process_identity(self.pid)
            state[IDENTITY_KEY] = self._identity
        if self._rescue_folder:
            state[RESCUE_KEY] = self._rescue_folder
        return state

    def clear_state(self) -> None:
        """Forget the process."""
        super().clear_state()
        self._identity = ""
        if self._rescue_folder:
            shutil.rmtree(self._rescue_folder, ignore_errors=True)
            self._rescue_folder = ""

    async def _signal(self, sig: int) -> bool:
        """Signal our process only: after a restart of the hub its number may be another's, or a zombie's.

        A zombie whose parent never collects it would otherwise look alive for ever.
        """
        if self._identity and _process_identity(self.pid) != self._identity:
            return False
        alive: bool = await super()._signal(sig)
        return alive


def _process_identity(pid: int) -> str:
    """When the process started, in clock ticks since boot; empty if it has ended or is unknown."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The name, in parentheses, may hold anything; the state is the first field after it, the start time the
    # 20th.
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in {"Z", "X"} else fields[19]
