"""Home directories of local mode: one for each person under one root, which no name can leave."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES_NAME = "example-notebooks"
# A letter or digit at both ends, so that no name is hidden, relative or an option; 64 characters fit any
# file system.
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._@+-]{0,62}[a-z0-9])?")


class InvalidHomeError(ValueError):
    """The name can't have a home directory here; the message is a sentence."""


def is_safe_name(name: str) -> bool:
    """Whether `name` is one plain component of a path."""
    return _NAME.fullmatch(name) is not None and ".." not in name


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


def prepare_home(root: Path, name: str, examples: Path | None) -> Path:
    """Make the home (mode 0700) if it is new, and copy the example notebooks into it when they are absent."""
    home = home_path(root, name)
    root.mkdir(parents=True, exist_ok=True)
    home.mkdir(mode=0o700, exist_ok=True)
    home.chmod(0o700)
    target = home / EXAMPLES_NAME
    # A link in the place counts as present: what it points to is the person's business.
    if examples is not None and examples.is_dir() and not (target.exists() or target.is_symlink()):
        partial = home / f".{EXAMPLES_NAME}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(examples, partial, symlinks=True, ignore=shutil.ignore_patterns(".*", "__pycache__"))
        partial.rename(target)
    return home
