"""What the hub's configuration reads from its environment; a mistake there ends the hub with one sentence."""

from __future__ import annotations

import ipaddress
import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LOOPBACK = "127.0.0.1"
ALLOCATIONS_PATH = "/services/allocations/"


@dataclass(frozen=True, slots=True)
class Installation:
    """Where the hub's neighbours are and who has which role, as one of the modes has found it.

    `reviewers` and `administrators` are members of roles: lists of names under `users` and `groups`. So are
    `hub_administrators`, of JupyterHub's own role `admin`, which can be anybody: nobody, unless the hub is not ours.
    """

    allocations_root: str
    allocations_url: str
    pending_settles_dir: str
    reviewers: Mapping[str, list[str]]
    administrators: Mapping[str, list[str]]
    hub_administrators: Mapping[str, list[str]] = field(
        default_factory=lambda: {"users": [], "groups": [], "services": []}
    )


def refuse(sentence: str) -> SystemExit:
    """End the hub with one sentence on standard error and exit status 1."""
    return SystemExit(f"Meridian's hub can't start: {sentence}")


def required(variable: str) -> str:
    """The value of an environment variable that has to be set."""
    value = optional(variable)
    if not value:
        raise refuse(f"the environment variable {variable} is not set.")
    return value


def optional(variable: str) -> str:
    """The value of an environment variable; empty when it is not set."""
    return os.environ.get(variable, "")


def port(variable: str) -> int:
    """A TCP port from the environment."""
    value = required(variable)
    if not value.isdecimal() or not 0 < int(value) < 2**16:
        raise refuse(f"{variable} must be a port from 1 to 65535, not {value!r}.")
    return int(value)


def loopback_url(variable: str) -> str:
    """A URL on the loopback interface: local mode has no isolation, so nobody else may reach it."""
    value = required(variable)
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise refuse(f"{variable} must be a URL such as http://127.0.0.1:8000/, not {value!r}.") from None
    if parts.scheme != "http" or not host:
        raise refuse(f"{variable} must be a URL such as http://127.0.0.1:8000/, not {value!r}.")
    if not is_loopback(host):
        raise refuse(f"{variable} names the host {host}, but local mode serves this machine only: use 127.0.0.1.")
    return value


def is_loopback(host: str) -> bool:
    """Whether `host` is localhost or an address of the loopback interface."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def settings_by_class(path: Path) -> dict[str, dict[str, Any]]:
    """The settings by class. They may hold secrets, so that what is wrong is not shown."""
    try:
        settings = json.loads(path.read_bytes())
    except (OSError, ValueError):
        raise refuse(f"{path} can't be read as JSON.") from None
    if not isinstance(settings, dict) or not all(isinstance(traits, dict) for traits in settings.values()):
        raise refuse(f"{path} must hold settings by class.")
    return settings


def names(variable: str) -> list[str]:
    """A list of names from the environment, as JSON; none when the variable is not set."""
    try:
        listed = json.loads(os.environ.get(variable) or "[]")
    except ValueError:
        listed = None
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise refuse(f"{variable} must be a list of names as JSON.")
    return sorted(listed)
