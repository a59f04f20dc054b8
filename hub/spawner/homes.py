"""Home directories of local mode: one for each person under one root, which no name can leave."""

from __future__ import annotations

import re
import shutil
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES_NAME = "example-notebooks"
HOME_MODE = 0o700
# A letter or digit at both ends, so that no name is hidden, relative or an option; 64 characters fit any
# file system.
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._@+-]{0,62}[a-z0-9])?")
# How folders of names that are not safe are called elsewhere: nobody's own name looks like that.
_HASHED = re.compile(r".*__[0-9a-f]{24}")


class InvalidHomeError(ValueError):
    """The name can't have a home directory here; the message is a sentence."""


def is_safe_name(name: str) -> bool:
    """Whether `name` is one plain component of a path."""
    return _NAME.fullmatch(name) is not None and ".." not in name and not _HASHED.fullmatch(name)


def home_path(root: Path, name: str) -> Path:
    """The home of `name` directly under `root`. Raises InvalidHomeError if the name could lead elsewhere."""
    if not is_safe_name(name):
        msg = f"The user name {name[:64]!r} can't name a home directory: use a-z, 0-9 and . _ @ + - inside."
        raise InvalidHomeError(msg)
    home = root.resolve() / name
    if home.is_symlink() or (home.exists() and not home.is_dir()):
        msg = f"The home of {name} is not a directory of its own."
        raise InvalidHomeError(msg)
    return home


def prepare_folder(root: Path, name: str) -> Path:
    """Make the folder (mode 0700) of an allocation, or a home without its examples, if it is new; return its path.

    Raises InvalidHomeError as `home_path`.
    """
    folder = home_path(root, name)
    root.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=HOME_MODE, exist_ok=True)
    return folder


def prepare_home(root: Path, name: str, examples: Path | None) -> Path:
    """Make the home (mode 0700) if it is new, and copy the example notebooks into it when they are absent."""
    home = prepare_folder(root, name)
    # Not where it is so: in a full home even that may fail.
    if stat.S_IMODE(home.stat().st_mode) != HOME_MODE:
        home.chmod(HOME_MODE)
    target = home / EXAMPLES_NAME
    # A link in the place counts as present: what it points to is the person's business.
    if examples is not None and examples.is_dir() and not (target.exists() or target.is_symlink()):
        partial = home / f".{EXAMPLES_NAME}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            shutil.copytree(examples, partial, symlinks=True, ignore=shutil.ignore_patterns(".*", "__pycache__"))
            partial.rename(target)
        except OSError:
            # A home without room gets them with the first start that finds some.
            shutil.rmtree(partial, ignore_errors=True)
    return home
