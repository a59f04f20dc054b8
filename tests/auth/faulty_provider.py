"""An OpenID Connect provider for the faults that a real one can't be made to show: it lies as it is told.

Without a fault it does what it should, PKCE, codes of one use and refresh tokens of one use included.
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CLIENT_ID, CLIENT_SECRET = "meridian", "client-secret-0123456789-0123456789"


@dataclass
class Key:
    """A key pair to sign with."""

    kid: str
    private: Any = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))

    @property
    def public(self) -> dict[str, Any]:
        """As a JWK."""
        jwk: dict[str, Any] = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.private.public_key()))
        return jwk | {"kid": self.kid, "use": "sig", "alg": "RS256"}


@dataclass
class FaultyProvider:
    """What it says, to be changed at will."""

    url: str = ""
    # Who signs in next, without being asked.
    person: dict[str, Any] = field(default_factory=dict)
    keys: list[Key] = field(default_factory=lambda: [Key("first")])
    # Each changes what is right before it is sent.
    id_claims: Callable[[dict[str, Any]], dict[str, Any]] = lambda claims: claims
    sign: Callable[[dict[str, Any]], str] | None = None
    userinfo: Callable[[dict[str, Any]], dict[str, Any]] = lambda claims: claims
    token_answer: Callable[[dict[str, Any]], dict[str, Any]] = lambda tokens: tokens
    # Subjects whose account is disabled; statuses that paths answer in place of anything else.
    disabled: set[str] = field(default_factory=set)
    statuses: dict[str, int] = field(default_factory=dict)
    gives_refresh_tokens: bool = True
    expires_in: int = 3600
    codes: dict[str, dict[str, Any]] = field(default_factory=dict)
    accesses: dict[str, dict[str, Any]] = field(default_factory=dict)
    refreshes: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def reset(self) -> None:
        """Be honest again, with nobody to sign in."""
        fresh = FaultyProvider(url=self.url, keys=self.keys[-1:])
        for name in vars(fresh):
            setattr(self, name, getattr(fresh, name))

    def answer(self, path: str, form: dict[str, str], bearer: str) -> tuple[int, dict[str, Any] | str]:
        """A status, and JSON or where to go."""
        self.requests.append((path, form))
        if path in self.statuses:
            return self.statuses[path], {"error": "server_error"}
        answers: dict[str, Callable[[], tuple[int, dict[str, Any] | str]]] = {
            "/.well-known/openid-configuration": lambda: (200, self._discovery()),
            "/jwks": lambda: (200, {"keys": [key.public for key in self.keys]}),
            "/authorize": lambda: (302, self._authorize(form)),
            "/token": lambda: self._token(form),
            "/userinfo": lambda: self._userinfo(bearer),
        }
        return answers.get(path, lambda: (404, {}))()

    def _userinfo(self, bearer: str) -> tuple[int, dict[str, Any]]:
        claims = self.accesses.get(bearer)
        if claims is None or claims["sub"] in self.disabled:
            return 401, {"error": "invalid_token"}
        return 200, self.userinfo(dict(claims))

    def _discovery(self) -> dict[str, Any]:
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "userinfo_endpoint": f"{self.url}/userinfo",
            "jwks_uri": f"{self.url}/jwks",
            "end_session_endpoint": f"{self.url}/end",
            "id_token_signing_alg_values_supported": ["RS256"],
            "authorization_response_iss_parameter_supported": True,
        }

    def _authorize(self, form: dict[str, str]) -> str:
        code = secrets.token_urlsafe(8)
        self.codes[code] = form | {"claims": dict(self.person)}
        return f"{form['redirect_uri']}?{urlencode({'code': code, 'state': form['state'], 'iss': self.url})}"

    def _token(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        if (form.get("client_id"), form.get("client_secret")) != (CLIENT_ID, CLIENT_SECRET):
            return 401, {"error": "invalid_client"}
        if form["grant_type"] == "refresh_token":
            granted = self.refreshes.pop(form["refresh_token"], None)
        else:
            granted = self.codes.pop(form["code"], None)
            digest = sha256(form.get("code_verifier", "").encode()).digest()
            challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
            if granted is not None and (granted["code_challenge"], granted["redirect_uri"]) != (
                challenge,
                form["redirect_uri"],
            ):
                granted = None
        if granted is None or granted["claims"]["sub"] in self.disabled:
            return 400, {"error": "invalid_grant"}
        access, refresh = secrets.token_urlsafe(16), secrets.token_urlsafe(16)
        self.accesses[access] = granted["claims"]
        tokens = {
            "access_token": access,
            "token_type": "Bearer",
            "expires_in": self.expires_in,
            "id_token": self._id_token(granted),
        }
        if self.gives_refresh_tokens:
            self.refreshes[refresh] = granted
            tokens["refresh_token"] = refresh
        return 200, self.token_answer(tokens)

    def _id_token(self, granted: dict[str, Any]) -> str:
        now = int(time.time())
        claims = {
            "iss": self.url,
            "sub": granted["claims"]["sub"],
            "aud": CLIENT_ID,
            "iat": now,
            "exp": now + 300,
            "nonce": granted.get("nonce"),
        }
        claims = self.id_claims(claims)
        if self.sign is not None:
            return self.sign(claims)
        key = self.keys[-1]
        return jwt.encode(claims, key.private, "RS256", {"kid": key.kid})

    @contextmanager
    def serving(self) -> Iterator[FaultyProvider]:
        """Serve on a free port of the loopback interface."""
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                url = urlsplit(self.path)
                form = dict(parse_qsl(url.query) + parse_qsl(self.rfile.read(length).decode()))
                bearer = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
                status, answer = provider.answer(url.path, form, bearer)
                body = b"" if isinstance(answer, str) else json.dumps(answer).encode()
                self.send_response(status)
                if isinstance(answer, str):
                    self.send_header("Location", answer)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = _serve  # noqa: N815  # http.server's names

            def log_message(self, *_arguments: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
