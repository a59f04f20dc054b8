"""Sign-in by OpenID Connect: who somebody is says the provider, by a token that is checked; what their name is, we.

The flow is oauthenticator's authorization code with PKCE. Beyond it: discovery, a nonce, an ID token that is verified,
names that never change hands, roles from groups, sessions that end when the account does, and sign-out at the provider.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from jupyterhub import orm
from oauthenticator.generic import GenericOAuthenticator
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.web import HTTPError
from traitlets import Bool, Dict, Integer, List, Set, Unicode, default, validate

from hub.auth import claims as read
from hub.auth.handlers import UNAVAILABLE, CallbackHandler, LoginHandler, SignOutHandler, refused
from hub.auth.identities import Identity, IdentityStore, NameTakenError
from hub.auth.names import candidates
from hub.auth.provider import Provider, ProviderUnavailableError, TokenRefusedError, is_private_enough
from hub.auth.sessions import SignInEndedError, SignInUnconfirmedError, end_sessions
from hub.auth.watch import AccountWatch
from hub.client import AllocationDenied, AllocationsClient, AllocationsUnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

AGAIN = "Sign in again; if that does not help, tell the platform's operators."
UNVERIFIED = f"The sign-in could not be verified, so you are not signed in. {AGAIN}"
NO_NAME = "There is no user name for your account. Tell the platform's operators."
LATER = "The platform is not ready to welcome you at the moment. Try again in a few minutes."
OK = 200
CONFLICT = 409
# What a token endpoint says when the account, or what it had agreed to, is no more (RFC 6749, section 5.2). Some call
# the request of a locked account invalid, though the same request is right for everybody else.
NO_MORE = frozenset({"invalid_grant", "invalid_request", "access_denied", "account_disabled"})
REFUSALS = frozenset({401, 403})


class OpenIDConnectAuthenticator(GenericOAuthenticator):
    """Lets in people whom an OpenID Connect provider vouches for."""

    login_handler = LoginHandler
    callback_handler = CallbackHandler
    logout_handler = SignOutHandler
    user_auth_state_key = "person"

    issuer = Unicode(
        config=True,
        help="""The provider's issuer, exactly as it publishes it; everything else is discovered from there.

        An https address, or http on this machine.
        """,
    )
    username_claims = List(
        Unicode(),
        ["preferred_username", "email"],
        config=True,
        help="""Claims from which a user name is made at the first sign-in; the first that is there.

        It only makes the name readable. Who has it stays with the provider's issuer and subject.
        """,
    )
    names = Dict(
        Unicode(),
        Unicode(),
        config=True,
        help="""User names given in advance, by the provider's subject, as in `{"0000-0002-1825-0097": "ada"}`.""",
    )
    reserved_names = Set(
        Unicode(),
        config=True,
        help="""User names that nobody gets by a claim, as those that have a role.

        Names in `admin_users`, `allowed_users` and `names` are reserved too: they go to those who have them already,
        or whom `names` names.
        """,
    )
    email_claim = Unicode("email", config=True, help="The claim with the address that mail goes to.")
    email_verified_claim = Unicode(
        "email_verified",
        config=True,
        help="The claim that says whether the address is verified.",
    )
    require_verified_email = Bool(
        True,
        config=True,
        help="Whether people without a verified address are refused. When not, an unverified one is not kept.",
    )
    full_name_claims = List(Unicode(), ["name"], config=True, help="Claims with a person's full name.")
    institution_claims = List(
        Unicode(),
        ["organization", "org", "schac_home_organization", "institution"],
        config=True,
        help="Claims with the institution, for reports only; the first that is there.",
    )
    country_claims = List(
        Unicode(),
        ["country", "address.country", "c"],
        config=True,
        help="Claims with the country, for reports only; the first that is there. Dots lead into a claim.",
    )
    groups_claims = List(
        Unicode(),
        ["groups"],
        config=True,
        help="Claims whose values become groups of the hub, together. Groups that are not the provider's stay.",
    )
    allowed_subjects = Set(Unicode(), config=True, help="Subjects of the provider who may sign in.")
    blocked_subjects = Set(Unicode(), config=True, help="Subjects of the provider who may not.")
    allowed_emails = Set(Unicode(), config=True, help="Verified addresses whose owners may sign in.")
    blocked_emails = Set(Unicode(), config=True, help="Addresses whose owners may not sign in.")
    allocations_url = Unicode(
        config=True,
        help="""Base URL of the allocations service, which keeps who people are beside what they have.

        The token is MERIDIAN_TOKEN_SPAWNER of the environment; its service needs the scope
        `custom:allocations:people`. Empty: names are kept by the hub alone, and nobody's address is known.
        """,
    )
    unconfirmed_seconds = Integer(
        86_400,
        config=True,
        help="""For how long servers and tokens go on when nothing confirms the account.

        So it is after a sign-out, and with providers that give no refresh token; from the last confirmation on.
        """,
    )
    post_logout_redirect_url = Unicode(
        config=True,
        help="Where the provider sends the browser after the sign-out, as it knows it. Default: the hub's /logout.",
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._provider: Provider | None = None
        self._refreshing: dict[str, asyncio.Task[dict[str, Any]]] = {}
        self._telling: set[asyncio.Task[None]] = set()
        self._allocations: AllocationsClient | None = None
        self._hub: Any = None

    # ------------------------------------------------------------- settings

    @validate("issuer")
    def _issuer_is_private(self, proposal: Any) -> str:
        issuer: str = proposal["value"]
        if issuer and (not is_private_enough(issuer) or urlsplit(issuer).query or urlsplit(issuer).fragment):
            msg = f"the issuer must be an https address without ? and #, not {issuer!r}"
            raise ValueError(msg)
        return issuer

    @default("scope")
    def _default_scope(self) -> list[str]:
        return ["openid", "profile", "email"]

    @default("login_service")
    def _default_login_service(self) -> str:
        return "OpenID Connect"

    @default("enable_auth_state")
    def _default_enable_auth_state(self) -> bool:
        return True

    @default("manage_groups")
    def _default_manage_groups(self) -> bool:
        return True

    @default("refresh_pre_spawn")
    def _default_refresh_pre_spawn(self) -> bool:
        return True

    @default("auth_refresh_strict")
    def _default_auth_refresh_strict(self) -> bool:
        # Tokens and servers end with the account, too, not only the pages.
        return True

    @default("post_logout_redirect_url")
    def _default_post_logout_redirect_url(self) -> str:
        return str(self.oauth_callback_url).removesuffix("oauth_callback") + "logout"

    def require_settings(self) -> None:
        """Raise ValueError with a sentence when something is missing that nobody can sign in without."""
        name = type(self).__name__
        for setting in ("issuer", "client_id", "oauth_callback_url"):
            if not getattr(self, setting):
                msg = f"{name}.{setting} is not set"
                raise ValueError(msg)
        if "openid" not in self.scope:
            msg = f"{name}.scope must hold openid"
            raise ValueError(msg)
        if not self.enable_pkce:
            msg = f"{name}.enable_pkce must stay on"
            raise ValueError(msg)

    def get_handlers(self, app: Any) -> list[tuple[str, type]]:
        """The pages of the sign-in; also the moment from which the hub's database is there."""
        self.require_settings()
        self._hub = app
        self.identities.create()
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
        if self._provider is None:
            self._provider = Provider(self.issuer, self.client_id, self._fetch_json)
        return self._provider

    # ------------------------------------------------------------- sign-in

    async def authenticate(self, handler: Any, data: Any = None, **_kwargs: Any) -> dict[str, Any]:
        """The person whom the code stands for that came back from the provider; HTTPError with a sentence otherwise."""
        if not isinstance(handler, CallbackHandler):
            # The hub's form for user names and passwords, which is not shown here and signs nobody in.
            raise refused(403, UNVERIFIED)
        params = self.build_access_tokens_request_params(handler, data)
        params.pop("data", None)
        try:
            tokens = await self._ask_for_tokens(params)
            token_claims = await self.provider.verify(
                tokens.get("id_token"), nonce=handler.nonce, access_token=tokens["access_token"]
            )
            person_claims = await self._all_claims(token_claims, tokens)
        except ProviderUnavailableError as error:
            self.log.error("Nobody can sign in: %s", error)  # noqa: TRY400  # the sentence is all
            raise refused(503, UNAVAILABLE) from error
        except (SignInEndedError, TokenRefusedError) as error:
            self.log.warning("A sign-in was refused: %s", error)
            raise refused(403, UNVERIFIED) from error
        return await self._model(person_claims, tokens)

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
            self._tell_later(auth_model)
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
                settled = await self._tell(name, auth_model, adopt=given is not None)
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

    async def _tell(self, name: str, auth_model: dict[str, Any], *, adopt: bool) -> str:
        if self._allocations is None:
            self._allocations = AllocationsClient.from_environment(self.allocations_url)
        state = auth_model["auth_state"]
        who = {"issuer": state["issuer"], "subject": state["subject"], "adopt": adopt}
        return await self._allocations.register_person(name, who | state["person"])

    def _tell_later(self, auth_model: dict[str, Any]) -> None:
        """Tell the service what it should know by now of a person whom it knows; the sign-in does not wait for it."""

        async def tell() -> None:
            try:
                # The hub has given the name: what the service has under it is this person's.
                name = await self._tell(auth_model["name"], auth_model, adopt=True)
            except (AllocationDenied, AllocationsUnavailableError) as error:
                self.log.error("What the service knows of %s is old: %s", auth_model["name"], error)  # noqa: TRY400
            else:
                if name != auth_model["name"]:
                    self.log.error("%s has the name %s at the service", auth_model["name"], name)

        if self.allocations_url:
            task = asyncio.ensure_future(tell())
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _all_claims(self, token_claims: dict[str, Any], tokens: dict[str, Any]) -> dict[str, Any]:
        """Those of the ID token, with what the provider tells beside it about the same person."""
        metadata = await self.provider.metadata()
        if metadata.userinfo_endpoint is None:
            return token_claims
        beside = await self._userinfo(metadata.userinfo_endpoint, tokens["access_token"])
        if beside.get("sub") != token_claims["sub"]:
            msg = "the provider's user information is about somebody else"
            raise TokenRefusedError(msg)
        return beside | token_claims

    async def _model(self, claims: Mapping[str, Any], tokens: dict[str, Any]) -> dict[str, Any]:
        """The person as the hub takes it. Raises HTTPError with a sentence when name or address are wanting."""
        identity = Identity(self.issuer, claims["sub"])
        person = self._person(claims)
        name = self._name(identity, claims)
        groups = read.groups(claims, self.groups_claims)
        admin = name in self.admin_users or bool(groups & self.admin_groups)
        now = int(time.time())
        lifetime = tokens.get("expires_in")
        return {
            "name": name,
            "admin": admin,
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
        """The person as the provider knows them now, kept already.

        Raises SignInEndedError, after which no session is left, SignInUnconfirmedError or ProviderUnavailableError.
        Whoever asks at the same time gets the same answer: a refresh token is good for one use, and a provider that
        sees it twice takes it for stolen.
        """
        task = self._refreshing.get(user.name)
        if task is None:
            task = self._refreshing[user.name] = asyncio.ensure_future(self._confirm(user))
            task.add_done_callback(lambda _: self._refreshing.pop(user.name, None))
        # One who asked and went away does not end it for the others.
        model = await asyncio.shield(task)
        return dict(model)

    async def _confirm(self, user: Any) -> dict[str, Any]:
        state = await user.get_auth_state() or {}
        if not state.get("access_token"):
            msg = "there was none"
            raise SignInEndedError(msg)
        try:
            model = await self._model_again(state)
            await self._still_allowed(user.name, model)
        except (TokenRefusedError, SignInEndedError, HTTPError) as error:
            if state.get("signed_out"):
                raise SignInUnconfirmedError from error
            await self._end(user, state)
            raise SignInEndedError(str(error)) from error
        if state.get("signed_out"):
            model["auth_state"]["signed_out"] = True
        await user.save_auth_state(model["auth_state"])
        if model["auth_state"]["person"] != state.get("person"):
            self._tell_later(model)
        return model

    async def _model_again(self, state: dict[str, Any]) -> dict[str, Any]:
        """Ask with the refresh token, which tells most; without one with the access token, while it lasts."""
        subject = state["subject"]
        if state.get("issuer") != self.issuer:
            msg = f"it was made at {state.get('issuer')}"
            raise SignInEndedError(msg)
        claims: dict[str, Any] = {"sub": subject}
        if state.get("refresh_token"):
            params = self.build_refresh_token_request_params(state["refresh_token"])
            tokens = {"refresh_token": state["refresh_token"]} | await self._ask_for_tokens(params)
            if tokens.get("id_token"):
                claims = await self.provider.verify(
                    tokens["id_token"], subject=subject, access_token=tokens["access_token"]
                )
            tokens.setdefault("id_token", state.get("id_token"))
        else:
            expires_at = state.get("expires_at")
            tokens = {name: state.get(name) for name in ("access_token", "id_token")}
            if expires_at is not None:
                tokens["expires_in"] = expires_at - int(time.time())
                if tokens["expires_in"] <= 0:
                    raise SignInUnconfirmedError
        return await self._model(await self._all_claims(claims, tokens), tokens)

    async def _still_allowed(self, name: str, model: dict[str, Any]) -> None:
        if model["name"] != name:
            msg = f"the account is that of {model['name']}"
            raise SignInEndedError(msg)
        self.check_blocked_users(name, model)
        await self.check_allowed(name, model)

    async def _end(self, user: Any, state: dict[str, Any]) -> None:
        end_sessions(self._hub.db, user)
        kept = {name: state.get(name) for name in ("issuer", "subject", "groups", "person")}
        await user.save_auth_state(kept | {"ended_at": int(time.time())})

    async def is_long_unconfirmed(self, user: Any) -> bool:
        """Whether nothing has confirmed the account for `unconfirmed_seconds`."""
        state = await user.get_auth_state() or {}
        confirmed_at: int = state.get("confirmed_at", 0)
        return time.time() - confirmed_at > self.unconfirmed_seconds

    # ------------------------------------------------------------ over HTTP

    async def _ask_for_tokens(self, params: dict[str, Any]) -> dict[str, Any]:
        """Tokens for a code or a refresh token. Raises SignInEndedError when the provider refuses, for good."""
        metadata = await self.provider.metadata()
        tokens = await self._ask(
            metadata.token_endpoint,
            faults=NO_MORE,
            method="POST",
            headers=self.build_token_info_request_headers(),
            body=urlencode(params),
        )
        if not isinstance(tokens.get("access_token"), str):
            msg = "the provider gave no access token"
            raise SignInEndedError(msg)
        return tokens

    async def _userinfo(self, url: str, access_token: str) -> dict[str, Any]:
        headers = self.build_userdata_request_headers(access_token, "bearer")
        return await self._ask(url, statuses=REFUSALS, headers=headers)

    async def _fetch_json(self, url: str) -> Any:
        return await self._ask(url, headers={"Accept": "application/json"})

    async def _ask(
        self,
        url: str,
        *,
        faults: frozenset[str] = frozenset(),
        statuses: frozenset[int] = frozenset(),
        **options: Any,
    ) -> dict[str, Any]:
        """An object of JSON. Raises SignInEndedError for an answer that speaks of the person, by fault or status.

        All else that is no such object, a wrong client secret too, is ProviderUnavailableError. What an answer holds
        stays out of the log.
        """
        request = HTTPRequest(
            url,
            follow_redirects=False,
            validate_cert=self.validate_server_cert,
            **({"connect_timeout": 5.0, "request_timeout": 15.0} | self.http_request_kwargs | options),
        )
        try:
            response = await self.http_client.fetch(request, raise_error=False)
        except (OSError, HTTPError, HTTPClientError) as error:
            msg = f"{url} can't be reached: {type(error).__name__}"
            raise ProviderUnavailableError(msg) from error
        try:
            answer = json.loads(response.body or b"")
        except ValueError:
            answer = None
        if response.code == OK and isinstance(answer, dict):
            return answer
        fault = str(answer.get("error") or "")[:100] if isinstance(answer, dict) else ""
        msg = f"{url} answers {response.code} {fault}".rstrip()
        if fault in faults or response.code in statuses:
            raise SignInEndedError(msg)
        raise ProviderUnavailableError(msg)


def _is_among(address: str | None, addresses: set[str]) -> bool:
    return address is not None and address.casefold() in {one.casefold() for one in addresses}
