"""What the processes read from their environment, in one place; secrets come this way and no other."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from allocations.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).resolve().parent.parent
SUBMISSION_PORT = 587
PORT_MAX = 65_535


def required(name: str) -> str:
    """Return a variable's value; InvalidInputError names the one that is missing."""
    value = os.environ.get(name)
    if not value:
        raise InvalidInputError(
            f"The environment variable {name} is not set.",
            "Start the platform with `make up`, which sets it.",
        )
    return value


@dataclass(frozen=True, slots=True)
class Settings:
    """What every process of the allocations service needs."""

    mode: str
    database_url: str
    policies: Path
    run_store: Path
    idle_seconds: Mapping[str, int] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)
    secret_keys: tuple[str, ...] = field(default=(), repr=False)

    @property
    def has_shipped_policies(self) -> bool:
        """Say whether the policy is the one that comes with the software."""
        return self.policies == ROOT / "policies"

    @property
    def runs_containers(self) -> bool:
        """Say whether servers and runs are containers, of images that can be chosen."""
        return self.mode == "kubernetes"

    @classmethod
    def from_environment(cls) -> Settings:
        """Read MERIDIAN_MODE, …_DATABASE_URL, …_POLICIES, …_RUN_STORE, …_IDLE_SECONDS, …_IMAGES and …_SECRETS_KEY.

        The last may be several keys with commas between, to replace one: the first encrypts, all of them decrypt.
        """
        return cls(
            mode=os.environ.get("MERIDIAN_MODE", "local"),
            database_url=required("MERIDIAN_DATABASE_URL"),
            policies=Path(os.environ.get("MERIDIAN_POLICIES", str(ROOT / "policies"))),
            run_store=Path(required("MERIDIAN_RUN_STORE")),
            idle_seconds=_idle_seconds("MERIDIAN_IDLE_SECONDS"),
            images=_images("MERIDIAN_IMAGES"),
            secret_keys=tuple(filter(None, os.environ.get("MERIDIAN_SECRETS_KEY", "").split(","))),
        )


@dataclass(frozen=True, slots=True)
class MailSettings:
    """How mail leaves: through an SMTP server, or, without one, as files in a folder."""

    sender: str
    domain: str
    pages_url: str
    folder: Path | None
    host: str | None
    port: int
    user: str | None
    password: str | None = field(repr=False)
    starttls: bool

    @classmethod
    def from_environment(cls) -> MailSettings:
        """Read MERIDIAN_SMTP_HOST, _PORT, _USER, _PASSWORD and _STARTTLS, MERIDIAN_MAIL_FROM and MERIDIAN_MAIL_DOMAIN.

        Without a host the mails become files in MERIDIAN_MAIL_FOLDER. The domain is that of the addresses of people
        who gave none, and of message ids. MERIDIAN_PAGES_URL is where people find these pages, such as
        https://meridian.example/services/allocations: without it mails have no links, that to turn them off included.
        InvalidInputError names what is missing.
        """
        host = os.environ.get("MERIDIAN_SMTP_HOST") or None
        domain = required("MERIDIAN_MAIL_DOMAIN")
        return cls(
            sender=required("MERIDIAN_MAIL_FROM"),
            domain=domain,
            pages_url=_web_address("MERIDIAN_PAGES_URL"),
            folder=None if host else Path(required("MERIDIAN_MAIL_FOLDER")),
            host=host,
            port=_port("MERIDIAN_SMTP_PORT", SUBMISSION_PORT),
            user=os.environ.get("MERIDIAN_SMTP_USER") or None,
            password=os.environ.get("MERIDIAN_SMTP_PASSWORD") or None,
            starttls=_switch("MERIDIAN_SMTP_STARTTLS", default=True),
        )


def _web_address(name: str) -> str:
    text = os.environ.get(name, "").rstrip("/")
    if text and not text.startswith(("https://", "http://")):
        raise InvalidInputError(f"{name} is no address of a web page.", "Set it to one that begins with https://.")
    return text


def _port(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= PORT_MAX:
        raise InvalidInputError(f"{name} is not a port.", f"Set it to a number from 1 to {PORT_MAX}.")
    return int(text)


def _idle_seconds(name: str) -> dict[str, int]:
    try:
        by_tier = json.loads(os.environ.get(name) or "{}")
    except ValueError:
        by_tier = None
    if not isinstance(by_tier, dict) or not all(type(seconds) is int and seconds > 0 for seconds in by_tier.values()):
        raise InvalidInputError(f"{name} is not a number of seconds for each tier.", 'Set it as {"entry": 3600}.')
    return by_tier


def _images(name: str) -> dict[str, str]:
    try:
        by_name = json.loads(os.environ.get(name) or "{}")
    except ValueError:
        by_name = None
    if not isinstance(by_name, dict) or not all(isinstance(place, str) and place for place in by_name.values()):
        raise InvalidInputError(
            f"{name} does not say where images are.", 'Set it as {"pipeline": "registry.example.org/lab:1"}.'
        )
    return by_name


def _switch(name: str, *, default: bool) -> bool:
    text = os.environ.get(name) or ("on" if default else "off")
    if text not in {"on", "off"}:
        raise InvalidInputError(f"{name} is neither on nor off.", "Set it to one of the two.")
    return text == "on"
