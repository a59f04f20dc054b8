"""A server that starts in a home without one free byte: it writes nowhere but below a folder of its own on /tmp.

Pure functions, for servers as processes and as pods. The home stays the folder that its owner sees, to delete from.
"""

from __future__ import annotations

from pathlib import PurePosixPath

# The size by which the service admits it, whatever the state of the home: the smallest, free of charge.
RESCUE = "rescue"
# Where a pod's writes go; a volume of its own is mounted on /tmp.
POD_FOLDER = "/tmp/rescue"  # noqa: S108 - of the pod alone
POD_TMP = "/tmp"  # noqa: S108 - as above
TMP_VOLUME = {"emptyDir": {"sizeLimit": "1Gi"}}
_FOLDERS = {
    "JUPYTER_RUNTIME_DIR": "runtime",
    "JUPYTER_DATA_DIR": "data",
    "JUPYTER_CONFIG_DIR": "config",
    "IPYTHONDIR": "ipython",
    "MPLCONFIGDIR": "matplotlib",
    "XDG_CACHE_HOME": "cache",
    "XDG_CONFIG_HOME": "xdg-config",
    "XDG_DATA_HOME": "xdg-data",
    "XDG_STATE_HOME": "xdg-state",
}


def rescue_arguments(folder: str) -> list[str]:
    """Return what `jupyterhub-singleuser` is told, so that each deletion frees space and needs none.

    A trash would lie in the home and free nothing, and beside a file that is deleted a folder would be made to look for
    its checkpoints in. Folders go with what is in them; hidden ones, where tools keep most, can be seen.
    """
    return [
        "--FileContentsManager.delete_to_trash=False",
        "--FileContentsManager.always_delete_dir=True",
        "--ContentsManager.allow_hidden=True",
        f"--FileCheckpoints.checkpoint_dir={PurePosixPath(folder) / 'checkpoints'}",
    ]


def rescue_environment(folder: str, tmp: str) -> dict[str, str]:
    """Return the environment of a server that writes below `folder` (made as needed) and `tmp` (there) only.

    Packages and settings in the home are left out as well: a start must not fail by what is broken there.
    """
    folders = {name: str(PurePosixPath(folder) / part) for name, part in _FOLDERS.items()}
    return folders | {
        "TMPDIR": tmp,
        "HISTFILE": str(PurePosixPath(tmp) / ".history"),
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
