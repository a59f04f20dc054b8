"""What is set for the sign-in by OpenID Connect: the provider, who may come, and which claims say what of a person."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from oauthenticator.generic import GenericOAuthenticator
from traitlets import Bool, Dict, Integer, List, Set, Unicode, default, validate

from hub.auth.provider import is_private_enough


class OpenIDConnectSettings(GenericOAuthenticator):
    """The settings of an authenticator, checked, with defaults that suit a provider that keeps to the standard."""

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
