"""Sign-in by OpenID Connect: who somebody is says the provider, by a token that is checked; what their name is, we.

The flow is oauthenticator's authorization code with PKCE. Beyond it: discovery, a nonce, an ID token that is verified,
names that never change hands, roles from groups, sessions that end when the account does, and sign-out at the provider.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from jupyterhub import orm

from hub.auth import claims as read
from hub.auth.asking import Asking
from hub.auth.confirming import Confirming
from hub.auth.handlers import UNAVAILABLE, CallbackHandler, LoginHandler, SignOutHandler, refused
from hub.auth.identities import Identity, IdentityStore, NameTakenError
from hub.auth.names import candidates
from hub.auth.provider import Provider, ProviderUnavailableError, TokenRefusedError
from hub.auth.sessions import SignInEndedError, SignInUnconfirmedError
from hub.auth.settings import OpenIDConnectSettings
from hub.auth.telling import Telling
from hub.auth.watch import AccountWatch
from hub.client import AllocationDenied, AllocationsUnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

AGAIN = "Sign in again; if that does not help, tell the platform's operators."
UNVERIFIED = f"The sign-in could not be verified, so you are not signed in. {AGAIN}"
NO_NAME = "There is no user name for your account. Tell the platform's operators."
LATER = "The platform is not ready to welcome you at the moment. Try again in a few minutes."
CONFLICT = 409


class OpenIDConnectAuthenticator(OpenIDConnectSettings):
    """Lets in people whom an OpenID Connect provider vouches for."""

    login_handler = LoginHandler
    callback_handler = CallbackHandler
    logout_handler = SignOutHandler
    user_auth_state_key = "person"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._asking = Asking(self)
        self._hub: Any = None

    def get_handlers(self, app: Any) -> list[tuple[str, type]]:
        """The pages of the sign-in; also the moment from which the hub's database is there."""
        self.require_settings()
        self._hub = app
        self.identities.create()
        self._telling = Telling(self.allocations_url, app.db, self.log)
        self._confirming = Confirming(self, self._asking, self._telling, app.db)
        if urlsplit(self.oauth_callback_url).scheme == "https":
            # The hub goes by how its own proxy was reached, which is by http where TLS ends before it.
            for cookies in ("cookie_options", "xsrf_cookie_kwargs"):
                app.tornado_settings.setdefault(cookies, {})["secure"] = True
        self._watch = asyncio.ensure_future(AccountWatch(app, self).run())
        handlers: list[tuple[str, type]] = super().get_handlers(app)
        return handlers

    @property
    def identities(self) -> IdentityStore:
        """Who has which name."""
        return IdentityStore(self._hub.db)

    @property
    def provider(self) -> Provider:
        """The provider, with what is known of it."""
        return self._asking.provider

    # ------------------------------------------------------------- sign-in

    async def authenticate(self, handler: Any, data: Any = None, **_kwargs: Any) -> dict[str, Any]:
        """The person whom the code stands for that came back from the provider; HTTPError with a sentence otherwise."""
        if not isinstance(handler, CallbackHandler):
            # The hub's form for user names and passwords, which is not shown here and signs nobody in.
            raise refused(403, UNVERIFIED)
        params = self.build_access_tokens_request_params(handler, data)
        params.pop("data", None)
        try:
            tokens = await self._asking.tokens(params)
            token_claims = await self.provider.verify(
                tokens.get("id_token"), nonce=handler.nonce, access_token=tokens["access_token"]
            )
            person_claims = await self._asking.claims(token_claims, tokens)
        except ProviderUnavailableError as error:
            self.log.error("Nobody can sign in: %s", error)  # noqa: TRY400  # the sentence is all
            raise refused(503, UNAVAILABLE) from error
        except (SignInEndedError, TokenRefusedError) as error:
            self.log.warning("A sign-in was refused: %s", error)
            raise refused(403, UNVERIFIED) from error
        return await self.model_of(person_claims, tokens)

    async def run_post_auth_hook(self, handler: Any, auth_model: dict[str, Any]) -> dict[str, Any]:
        """Give the name for good, now that the person is let in: who is not takes no name from anybody."""
        state = auth_model["auth_state"]
        identity = Identity(state["issuer"], state["subject"])
        if self.identities.name_of(identity) is None:
            try:
                auth_model["name"] = await self._settle_name(identity, auth_model)
                self.identities.give(identity, auth_model["name"], state["confirmed_at"])
            except NameTakenError as error:
                self.log.error("No name for %r of %s: %s", identity.subject, identity.issuer, error)  # noqa: TRY400
                raise refused(403, NO_NAME) from error
        else:
            self._telling.later(auth_model)
        model: dict[str, Any] = await super().run_post_auth_hook(handler, auth_model)
        return model

    async def _settle_name(self, identity: Identity, auth_model: dict[str, Any]) -> str:
        """Agree on a new person's name with the allocations service, whose ledger outlives the hub's database.

        What it holds under a name that the hub has forgotten goes to nobody else. NameTakenError when no name is left.
        """
        if not self.allocations_url:
            return str(auth_model["name"])
        given = self.names.get(identity.subject)
        others = () if given else candidates(auth_model["name"], identity.issuer, identity.subject)
        for name in (auth_model["name"], *others):
            if name != auth_model["name"] and not self.identities.is_free(name):
                continue
            try:
                settled = await self._telling.tell(name, auth_model, adopt=given is not None)
            except AllocationDenied as error:
                if error.status != CONFLICT:
                    raise refused(503, LATER) from error
            except AllocationsUnavailableError as error:
                self.log.error("Nobody new can sign in: %s", error)  # noqa: TRY400  # the sentence is all
                raise refused(503, LATER) from error
            else:
                return settled
        msg = f"Every user name like {auth_model['name']} is taken."
        raise NameTakenError(msg)

    async def model_of(self, claims: Mapping[str, Any], tokens: dict[str, Any]) -> dict[str, Any]:
        """The person as the hub takes it. Raises HTTPError with a sentence when name or address are wanting."""
        identity = Identity(self.issuer, claims["sub"])
        person = self._person(claims)
        name = self._name(identity, claims)
        groups = read.groups(claims, self.groups_claims)
        now = int(time.time())
        lifetime = tokens.get("expires_in")
        return {
            "name": name,
            "admin": None,  # nothing that a provider says makes the hub's own administrator
            "groups": sorted(groups | await self._groups_of_others(name)),
            "auth_state": {
                "issuer": identity.issuer,
                "subject": identity.subject,
                "confirmed_at": now,
                "expires_at": now + lifetime if isinstance(lifetime, int) else None,
                "access_token": tokens["access_token"],
                "refresh_token": tokens.get("refresh_token"),
                "id_token": tokens.get("id_token"),
                "groups": sorted(groups),
                "person": person.as_dict(),
            },
        }

    def _person(self, claims: Mapping[str, Any]) -> read.Person:
        address = read.email(claims, self.email_claim)
        if not self.email_is_verified(claims):
            if self.require_verified_email:
                raise refused(403, self.sentence_without_email(address))
            address = None
        elif address is None and self.require_verified_email:
            raise refused(403, self.sentence_without_email(None))
        return read.Person(
            full_name=read.text(claims, self.full_name_claims),
            email=address,
            institution=read.text(claims, self.institution_claims),
            country=read.text(claims, self.country_claims),
        )

    def email_is_verified(self, claims: Mapping[str, Any]) -> bool:
        """Whether the provider vouches for the address."""
        return read.is_true(read.claim(claims, self.email_verified_claim))

    def sentence_without_email(self, address: str | None) -> str:
        """What a person reads who is refused for want of a verified address."""
        if address is None:
            return (
                f"{self.login_service} gave no e-mail address for you, which the platform needs to reach you. "
                "Add one there, allow it to be passed on, and sign in again."
            )
        return (
            f"Your e-mail address {address} is not verified at {self.login_service}. "
            "Verify it there, then sign in again."
        )

    def _name(self, identity: Identity, claims: Mapping[str, Any]) -> str:
        store = self.identities
        name = store.name_of(identity) or self.names.get(identity.subject)
        if name is not None:
            return name
        taken = frozenset().union(self.reserved_names, self.admin_users, self.allowed_users, self.names.values())
        wanted = read.text(claims, self.username_claims) or ""
        try:
            return store.first_free(candidates(wanted, identity.issuer, identity.subject), taken)
        except NameTakenError as error:
            raise refused(403, NO_NAME) from error

    async def _groups_of_others(self, name: str) -> set[str]:
        """Groups of the person that the provider did not give: made here, and kept."""
        orm_user = orm.User.find(self._hub.db, name)
        if orm_user is None:
            return set()
        state = await self._hub.users[orm_user].get_auth_state() or {}
        return {group.name for group in orm_user.groups}.difference(state.get("groups", ()))

    async def people_with_runs(self) -> list[str]:
        """Who has batch runs, whose accounts are looked at though they may have no server. As `AllocationsClient`."""
        return await self._telling.people_with_runs()

    async def end_runs(self, name: str) -> None:
        """End the batch runs of somebody whose account has ended. As `AllocationsClient`."""
        await self._telling.end_runs(name)

    # ------------------------------------------------------- who is let in

    def check_blocked_users(self, username: str, authentication: dict[str, Any] | None = None) -> bool:
        """Whether nothing speaks against the person. Raises HTTPError with a sentence otherwise."""
        state = (authentication or {}).get("auth_state") or {}
        address = (state.get("person") or {}).get("email")
        if (
            username in self.blocked_users
            or state.get("subject") in self.blocked_subjects
            or _is_among(address, self.blocked_emails)
        ):
            raise refused(403, f"The account {username} may not use this platform. Ask its operators why.")
        return True

    async def check_allowed(self, username: str, auth_model: dict[str, Any] | None) -> bool:
        """Whether the person is on one of the lists. Raises HTTPError with a sentence otherwise."""
        if await super().check_allowed(username, auth_model):
            return True
        state = (auth_model or {}).get("auth_state") or {}
        address = (state.get("person") or {}).get("email")
        if state.get("subject") in self.allowed_subjects or _is_among(address, self.allowed_emails):
            return True
        sentence = f"The account {username} is not on this platform's list yet. Ask its operators to add you."
        raise refused(403, sentence)

    # --------------------------------------------- whether it still stands

    async def refresh_user(self, user: Any, handler: Any = None, **_kwargs: Any) -> bool | dict[str, Any]:
        """Ask the provider whether it still stands by the sign-in, and take over what has changed.

        False ends the session. While the provider does not answer, all stays as it is.
        """
        try:
            return await self.confirm(user)
        except ProviderUnavailableError as error:
            self.log.warning("%s stays signed in unconfirmed: %s", user.name, error)
            return True
        except SignInUnconfirmedError:
            # A browser can sign in again; a token can't, and goes on for a while.
            by_token = bool(getattr(handler, "_token_authenticated", False))
            return by_token and not await self.is_long_unconfirmed(user)
        except SignInEndedError as error:
            self.log.warning("The sign-in of %s has ended: %s", user.name, error)
            return False

    async def confirm(self, user: Any) -> dict[str, Any]:
        """The person as the provider knows them now, kept already. As `Confirming`."""
        return await self._confirming.confirm(user)

    async def is_long_unconfirmed(self, user: Any) -> bool:
        """Whether nothing has confirmed the account for `unconfirmed_seconds`."""
        state = await user.get_auth_state() or {}
        confirmed_at: int = state.get("confirmed_at", 0)
        return time.time() - confirmed_at > self.unconfirmed_seconds


def _is_among(address: str | None, addresses: set[str]) -> bool:
    return address is not None and address.casefold() in {one.casefold() for one in addresses}
