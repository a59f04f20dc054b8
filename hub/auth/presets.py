"""Ready-made settings for providers that astronomers have accounts at: only what differs from plain OpenID Connect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from traitlets import List, Unicode, default

from hub.auth import claims as read
from hub.auth.openid import OpenIDConnectAuthenticator

if TYPE_CHECKING:
    from collections.abc import Mapping


class MystAuthenticator(OpenIDConnectAuthenticator):
    """The STScI's account. The issuer and the client come from the institute with the registration."""

    @default("login_service")
    def _default_login_service(self) -> str:
        return "MyST"

    @default("institution_claims")
    def _default_institution_claims(self) -> list[str]:
        return ["institution", "organization", "affiliation"]


class CILogonAuthenticator(OpenIDConnectAuthenticator):
    """CILogon: the accounts of thousands of universities, and a few other providers, behind one issuer.

    It does not say whether an address is verified. One that a university gives counts as such; one from elsewhere, as
    GitHub, does not, for there people write what they like, unless `vouching_idps` names the provider.
    """

    vouching_idps = List(
        Unicode(),
        config=True,
        help="""Further identity providers (the claim `idp`) whose addresses count as verified.

        As in `["http://google.com/accounts/o8/id"]`.
        """,
    )

    @default("issuer")
    def _default_issuer(self) -> str:
        return "https://cilogon.org"

    @default("login_service")
    def _default_login_service(self) -> str:
        return "CILogon"

    @default("scope")
    def _default_scope(self) -> list[str]:
        return ["openid", "email", "profile", "org.cilogon.userinfo"]

    @default("username_claims")
    def _default_username_claims(self) -> list[str]:
        return ["eppn", "preferred_username", "email"]

    @default("institution_claims")
    def _default_institution_claims(self) -> list[str]:
        return ["idp_name"]

    @default("groups_claims")
    def _default_groups_claims(self) -> list[str]:
        return ["isMemberOf"]

    def email_is_verified(self, claims: Mapping[str, Any]) -> bool:
        """Whether a university gave the address: it names the person (eppn), and is no provider by OAuth (oidc)."""
        if super().email_is_verified(claims) or claims.get("idp") in self.vouching_idps:
            return True
        return read.text(claims, ["eppn"]) is not None and "oidc" not in claims


class OrcidAuthenticator(OpenIDConnectAuthenticator):
    """ORCID: the researcher's iD is subject and user name. It gives no address, institution or country."""

    @default("issuer")
    def _default_issuer(self) -> str:
        return "https://orcid.org"

    @default("login_service")
    def _default_login_service(self) -> str:
        return "ORCID"

    @default("scope")
    def _default_scope(self) -> list[str]:
        return ["openid"]

    @default("basic_auth")
    def _default_basic_auth(self) -> bool:
        return False

    @default("username_claims")
    def _default_username_claims(self) -> list[str]:
        return ["sub"]

    @default("require_verified_email")
    def _default_require_verified_email(self) -> bool:
        return False
