"""Keeps everybody from being JupyterHub's own administrator, who can open anybody's server and make tokens for anybody.

The platform's administrators have a role of ours instead (`hub.configuration`), in which there is nothing of the kind.
"""

from __future__ import annotations

from hmac import compare_digest
from typing import Any

from jupyterhub.auth import Authenticator
from jupyterhub.authenticators.shared import SharedPasswordAuthenticator
from jupyterhub.utils import maybe_future
from traitlets import Set, Unicode


class NoHubAdministrators(Authenticator):
    """Part of each way to sign in: it says who somebody is, and never that they are the hub's own administrator."""

    administrators = Set(
        Unicode(),
        config=True,
        help="""User names of the platform's administrators, who may sign in whoever else may.

        Set by the platform from `admin_users`, whom JupyterHub would make its own administrators.
        """,
    )

    def is_administrator(self, name: str) -> bool:
        """Whether the configuration names somebody as an administrator of the platform."""
        return name in {self.normalize_username(one) for one in self.administrators}

    async def check_allowed(self, username: str, authentication: dict[str, Any] | None = None) -> bool:
        """Whether somebody may sign in: administrators, and whom the way to sign in lets in."""
        return self.is_administrator(username) or await maybe_future(super().check_allowed(username, authentication))

    async def get_authenticated_user(self, handler: Any, data: Any) -> dict[str, Any] | None:
        """Who signs in, as JupyterHub takes them over."""
        model = await super().get_authenticated_user(handler, data)
        return None if model is None else model | {"admin": False}

    async def refresh_user(self, user: Any, handler: Any = None, **options: Any) -> bool | dict[str, Any]:
        """Whether a sign-in still stands, with what has changed."""
        model = await maybe_future(super().refresh_user(user, handler, **options))
        return model | {"admin": False} if isinstance(model, dict) else bool(model)


class TrialAuthenticator(NoHubAdministrators, SharedPasswordAuthenticator):
    """JupyterHub's shared passwords: `admin_password` for administrators, `user_password` for everybody else."""

    def check_allow_config(self) -> None:
        """As with any other way to sign in: JupyterHub's own class would miss `admin_users`."""
        Authenticator.check_allow_config(self)

    async def authenticate(self, handler: Any, data: dict[str, str]) -> dict[str, Any] | None:  # noqa: ARG002  # JupyterHub's signature
        """The person for the right password, otherwise None."""
        name = self.normalize_username(data["username"])
        expected = self.admin_password if self.is_administrator(name) else self.user_password
        if not expected or not compare_digest(data["password"].encode(), expected.encode()):
            return None
        return {"name": name, "groups": []}


def without_hub_administrators(authenticator: type[Authenticator]) -> type[Authenticator]:
    """The same way to sign in, by which nobody becomes the hub's own administrator."""
    if issubclass(authenticator, NoHubAdministrators):
        return authenticator
    return type(authenticator.__name__, (NoHubAdministrators, authenticator), {"__doc__": authenticator.__doc__})
