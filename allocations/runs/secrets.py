"""People's secrets: kept encrypted, shown by name alone, and opened only for a run of theirs that begins.

The key is in no database: whoever has a copy of the database has no secret. Each is sealed together with its person and
name, so that a row that was moved to another's place does not open.
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from pydantic import Field

from allocations.clock import to_rfc3339
from allocations.errors import AllocationsError, InvalidInputError, NotFoundError
from allocations.leases.views import View
from allocations.runs.places import keys_of
from allocations.runs.states import ACTIVE_STATES

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.runs.secret_store import SecretStore
    from allocations.runs.store import RunStore

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
VALUE_BYTES_MAX = 32_768
SECRETS_MAX = 100
KEY_BYTES = 32
# What the platform or the system sets itself: a run with another's would not be the run that its record says.
RESERVED = frozenset(
    (
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "IFS", "ENV", "BASH_ENV"),
        *("OMP_NUM_THREADS", "MALLOC_ARENA_MAX", "NVIDIA_VISIBLE_DEVICES"),
    )
)
RESERVED_BEGINNINGS = ("MERIDIAN_", "JUPYTER", "LD_", "PYTHON")
# What a person may set all the same: the token with which their notebook asks the platform.
OWN_TOKEN = "MERIDIAN_TOKEN"  # noqa: S105 (a name)


class SecretsUnavailableError(AllocationsError):
    """This installation cannot keep secrets, or not open those that it has."""

    code = "secrets_unavailable"
    status = 503
    title = "Secrets cannot be used"


class SecretMissingError(AllocationsError):
    """A run asks for a secret that its person does not have."""

    code = "secret_missing"
    status = 409
    title = "No such secret"


class SecretView(View):
    """A secret as it is shown: never its value."""

    name: str
    created_at: str
    changed_at: str
    used_at: str | None


class RunEnvironment(View):
    """What a run is given: variables for its notebook, and the keys with which its output is saved, not for it."""

    values: dict[str, str] = Field(repr=False)
    output: dict[str, str] = Field(repr=False)


class Vault:
    """Seals and opens. keys: 64 hexadecimal digits each; the first seals, any of them opens."""

    def __init__(self, keys: Sequence[str]) -> None:
        try:
            raw = [bytes.fromhex(key) for key in keys]
        except ValueError:
            raw = [b""]
        if any(len(key) != KEY_BYTES for key in raw):
            raise InvalidInputError(
                "MERIDIAN_SECRETS_KEY is not a key.",
                "Set it to 64 hexadecimal digits: `openssl rand -hex 32`.",
            )
        self._fernet = MultiFernet([Fernet(urlsafe_b64encode(key)) for key in raw]) if raw else None

    def seal(self, person: str, name: str, value: str) -> str:
        """Return a value encrypted; SecretsUnavailableError without a key."""
        return self._ready().encrypt(json.dumps([person, name, value]).encode()).decode()

    def open(self, person: str, name: str, sealed: str) -> str:
        """Return the value of a secret; SecretsUnavailableError when it was not sealed for this person and name."""
        try:
            found: list[str] = json.loads(self._ready().decrypt(sealed.encode()))
        except InvalidToken:
            found = []
        if found[:2] != [person, name]:
            raise SecretsUnavailableError(
                f"The secret {name} cannot be opened with this installation's key.", "Set it again."
            )
        return found[2]

    def _ready(self) -> MultiFernet:
        if self._fernet is None:
            raise SecretsUnavailableError(
                "This installation has no key for secrets.", "Ask the operators to set MERIDIAN_SECRETS_KEY."
            )
        return self._fernet


def require_names(names: Collection[str]) -> list[str]:
    """Return the names of secrets in order, each once; InvalidInputError for what can be none."""
    wrong = next((name for name in names if not NAME.fullmatch(name)), None)
    if wrong is not None:
        raise InvalidInputError(
            "The name of a secret is that of an environment variable: letters, digits and underscores, at most 64.",
            "Name it for example SURVEY_TOKEN.",
        )
    others = (name for name in names if name != OWN_TOKEN)
    taken = next((name for name in others if name in RESERVED or name.startswith(RESERVED_BEGINNINGS)), None)
    if taken is not None:
        raise InvalidInputError(f"{taken} is set by the platform itself.", "Choose another name.")
    if len(set(names)) > SECRETS_MAX:
        raise InvalidInputError(f"A run can be given at most {SECRETS_MAX} secrets.", "Leave some out.")
    return sorted(set(names))


def require_value(value: str) -> str:
    """Return a secret's value; InvalidInputError for one that no environment variable can hold."""
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        size = 0
    if not 0 < size <= VALUE_BYTES_MAX or "\0" in value:
        raise InvalidInputError(
            f"The value of a secret must have 1 to {VALUE_BYTES_MAX:,} bytes of text, and no NUL.",
            "Keep larger things as files in your home.",
        )
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretService:
    """People's own secrets, and what a run of theirs is given."""

    database: Database
    clock: Clock
    vault: Vault
    store: SecretStore
    runs: RunStore

    def list_of(self, person: str) -> list[SecretView]:
        """Return a person's secrets by name, without their values."""
        with self.database.read() as connection:
            return [
                SecretView(
                    name=row.name,
                    created_at=to_rfc3339(row.created_at_ms),
                    changed_at=to_rfc3339(row.changed_at_ms),
                    used_at=None if row.used_at_ms is None else to_rfc3339(row.used_at_ms),
                )
                for row in self.store.of_person(connection, person)
            ]

    def put(self, person: str, name: str, value: str) -> SecretView:
        """Keep a secret, in the place of one of the same name."""
        require_names([name])
        sealed = self.vault.seal(person, name, require_value(value))
        with self.database.write() as connection:
            is_new = self.store.put(connection, person, name, sealed, self.clock.now_ms())
            if is_new and self.store.count(connection, person) > SECRETS_MAX:
                raise InvalidInputError(f"A person can keep at most {SECRETS_MAX} secrets.", "Remove one first.")
        return next(one for one in self.list_of(person) if one.name == name)

    def remove(self, person: str, name: str) -> None:
        """Remove a secret; runs that ask for it and have not begun will fail. NotFoundError when there is none."""
        with self.database.write() as connection:
            if not NAME.fullmatch(name) or not self.store.remove(connection, person, name):
                raise NotFoundError(f"There is no secret {name!r}.", "Look at the list of your secrets.")

    def environment_of(self, run_id: str) -> RunEnvironment:
        """Return what a run is given, for whoever executes it: only while it is admitted or runs.

        SecretMissingError when the person has removed a secret since the run was submitted.
        """
        with self.database.write() as connection:
            run = self.runs.get(connection, run_id)
            if run is None or run.state not in ACTIVE_STATES:
                raise NotFoundError(f"There is no run {run_id!r} that begins.", "Look it up in the list of runs.")
            names: list[str] = json.loads(run.environment or "[]")
            keys, options = keys_of(run.output)
            sealed = self.require(connection, run.person, [*names, *keys])
            sealed |= self.store.sealed(connection, run.person, options)
            opened = {name: self.vault.open(run.person, name, value) for name, value in sealed.items()}
            self.store.mark_used(connection, run.person, list(opened), self.clock.now_ms())
        return RunEnvironment(
            values={name: opened[name] for name in names},
            output={name: opened[name] for name in (*keys, *options) if name in opened},
        )

    def require(self, connection: Connection, person: str, names: Collection[str]) -> dict[str, str]:
        """Return the sealed secrets; SecretMissingError names those that the person does not have."""
        sealed = self.store.sealed(connection, person, names) if names else {}
        missing = sorted(set(names) - sealed.keys())
        if missing:
            raise SecretMissingError(
                f"You have no secret {', '.join(missing)}.", "Set it first, or submit the run without it."
            )
        return sealed
