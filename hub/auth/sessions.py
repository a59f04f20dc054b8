"""How a sign-in ends, and with it what it gave to browsers: cookies, and tokens of services and servers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jupyterhub import orm
from sqlalchemy import delete

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


class SignInEndedError(Exception):
    """The provider does not stand by the sign-in any more, or the person is not let in any more."""


class SignInUnconfirmedError(Exception):
    """Nobody can say whether the account still stands: there is nothing to ask with."""


def end_sessions(db: Session, user: Any) -> None:
    """Sign a person out of the hub, its services and servers in every browser. Tokens made for scripts stay."""
    # The hub's cookie holds this id and nothing else: without it no cookie is anybody's.
    user.orm_user.cookie_id = orm.new_token()
    db.execute(delete(orm.APIToken).where(orm.APIToken.user_id == user.id, orm.APIToken.session_id.is_not(None)))
    db.commit()
    # The next request that a token makes in their name asks the provider anew.
    user._auth_refreshed = None  # noqa: SLF001  # the hub has no other way to say so
