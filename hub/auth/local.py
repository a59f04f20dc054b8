"""Sign-in for local mode: a few accounts in one private file, no directory service.

The file holds passwords as they are typed, which is fit for one machine and for nothing else; the
authenticator therefore refuses to work unless MERIDIAN_MODE is `local`.
"""

import hmac
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from jupyterhub.auth import Authenticator
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from tornado.web import HTTPError
from traitlets import Unicode, default

from hub.spawner.homes import is_safe_name

Role = Literal["researcher", "lead", "reviewer", "admin"]
FAILURES_ALLOWED = 5
FAILURE_WINDOW_SECONDS = 60.0


class AccountsFileError(Exception):
    """The accounts file can't be used; the message is a sentence that says what to mend."""


class Account(BaseModel):
    """One person who may sign in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    password: str = Field(min_length=8, repr=False)
    roles: frozenset[Role] = frozenset({"researcher"})

    @field_validator("name")
    @classmethod
    def _safe(cls, name: str) -> str:
        if not is_safe_name(name):
            msg = "a name is 1 to 64 of a-z, 0-9 and . _ @ + -, with a letter or digit at both ends"
            raise ValueError(msg)
        return name


class _AccountsFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    accounts: list[Account]


def read_accounts(path: Path) -> dict[str, Account]:
    """The accounts by name. Raises AccountsFileError if others can read the file, or if it is malformed."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                msg = f"The accounts file {path} can be read by others (mode {mode:04o}); run chmod 600 on it."
                raise AccountsFileError(msg)
            content = file.read()
    except OSError as error:
        msg = f"The accounts file {path} can't be read: {error.strerror}."
        raise AccountsFileError(msg) from error
    try:
        accounts = _AccountsFile.model_validate_json(content).accounts
    except ValidationError as error:
        # Only places and kinds of mistake: the input itself holds passwords.
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc']) or 'file'}: {fault['msg']}" for fault in error.errors()
        )
        msg = f"The accounts file {path} is malformed: {faults}."
        raise AccountsFileError(msg) from None
    by_name = {account.name: account for account in accounts}
    if len(by_name) != len(accounts):
        msg = f"The accounts file {path} names an account twice."
        raise AccountsFileError(msg)
    return by_name


class FailureLimiter:
    """Counts failed sign-ins for each known name, and for all unknown names together: it stays small."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds that never run backwards."""
        self._clock = clock
        self._failures: dict[str, list[float]] = {}

    def blocked(self, key: str) -> bool:
        """Whether there were too many failures within the last window."""
        since = self._clock() - FAILURE_WINDOW_SECONDS
        recent = self._failures[key] = [moment for moment in self._failures.get(key, []) if moment > since]
        return len(recent) >= FAILURES_ALLOWED

    def failed(self, key: str) -> None:
        """Count one failure."""
        self._failures.setdefault(key, []).append(self._clock())

    def succeeded(self, key: str) -> None:
        """Forget the failures."""
        self._failures.pop(key, None)


class LocalAccountsAuthenticator(Authenticator):
    """Lets in the accounts of one file; it is read anew at each sign-in, so that changes count at once."""

    accounts_file = Unicode(
        config=True,
        help="""JSON file, mode 0600: {"accounts": [{"name", "password", "roles"}]}.

        Roles are researcher, lead, reviewer and admin, the platform's administrator. Passwords have at least
        8 characters. Default: the environment variable MERIDIAN_ACCOUNTS_FILE.
        """,
    )

    def __init__(self, **kwargs: Any) -> None:
        """Raises RuntimeError outside local mode."""
        super().__init__(**kwargs)
        if os.environ.get("MERIDIAN_MODE") != "local":
            msg = "LocalAccountsAuthenticator works in local mode only: MERIDIAN_MODE must be local."
            raise RuntimeError(msg)
        self._limiter = FailureLimiter()

    @default("accounts_file")
    def _default_accounts_file(self) -> str:
        return os.environ["MERIDIAN_ACCOUNTS_FILE"]

    @default("allow_all")
    def _default_allow_all(self) -> bool:
        # The file is the list of those who are allowed.
        return True

    async def authenticate(self, handler: object, data: dict[str, str]) -> dict[str, Any] | None:  # noqa: ARG002 - JupyterHub's signature
        """The account for a right password, None for a wrong one; HTTP 429 after too many wrong ones."""
        accounts = self._accounts()
        name = data.get("username", "")
        account = accounts.get(name)
        key = name if account else ""
        if self._limiter.blocked(key):
            raise HTTPError(429, "Too many wrong passwords. Wait a minute, then try again.")
        expected = account.password if account else "no such account"
        # Compared for unknown names too, so that the time taken does not tell which names exist.
        same = hmac.compare_digest(expected.encode(), data.get("password", "").encode())
        if account is None or not same:
            self._limiter.failed(key)
            return None
        self._limiter.succeeded(key)
        return {"name": account.name}

    async def refresh_user(self, user: Any, handler: object | None = None) -> bool | dict[str, Any]:  # noqa: ARG002 - JupyterHub's signature
        """Signed-in people stay so while their account is in the file."""
        account = self._accounts().get(user.name)
        return account is not None and {"name": account.name}

    def _accounts(self) -> dict[str, Account]:
        try:
            return read_accounts(Path(self.accounts_file))
        except AccountsFileError as error:
            self.log.error("%s", error)  # noqa: TRY400 - the sentence is all; a traceback would add nothing
            raise HTTPError(500, "Sign-in is not set up correctly; the hub's log says why.") from error
