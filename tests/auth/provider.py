"""A real OpenID Connect provider, Canaille, as a process of its own: people, passwords, consent, PKCE.

`python -m tests.auth.provider PORT REDIRECT_URI`, or `Provider.serving()`. It keeps everything in memory; what an
administrator would do there comes as lines on its standard input: `lock NAME`, `unlock NAME`, `join NAME GROUP`.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.e2e.platform import wait_for
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
CLIENT_ID, CLIENT_SECRET = "meridian", "client-secret-of-the-platform"
PEOPLE = ("ada", "bob", "rita", "olga")
GROUPS = {"panel": "rita", "operators": "olga"}


def password_of(name: str) -> str:
    """The password of a person at the provider."""
    return f"{name}-has-a-long-password"


@dataclass
class Provider:
    """The running process."""

    url: str
    process: subprocess.Popen[str]

    def tell(self, *words: str) -> None:
        """Do as an administrator of the provider; done when this returns."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(" ".join(words) + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    @classmethod
    @contextmanager
    def serving(cls, redirect_uri: str, log: Path) -> Iterator[Provider]:
        """Run it on a free port of this machine for one client."""
        port = free_port()
        environment = dict(os.environ) | {"AUTHLIB_INSECURE_TRANSPORT": "1"}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.auth.provider", str(port), redirect_uri],
                cwd=ROOT,
                env=environment,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
            )
            url = f"http://localhost:{port}"

            def answers() -> bool:
                assert process.poll() is None, log.read_text()
                try:
                    return httpx.get(f"{url}/.well-known/openid-configuration").status_code == 200
                except httpx.HTTPError:
                    return False

            try:
                wait_for("the provider", answers, 60)
                yield cls(url, process)
            finally:
                process.kill()
                process.communicate(timeout=10)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_request(self, *_arguments: Any) -> None:
        pass


def main(port: int, redirect_uri: str) -> None:
    """Serve until killed."""
    from canaille import create_app  # noqa: PLC0415  # slow to load, and needed in this process only
    from canaille.app import models  # noqa: PLC0415
    from canaille.backends import Backend  # noqa: PLC0415

    key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 2048)))
    key = {name: key[name] for name in key if name != "key_ops"} | {"kid": "the-only-key"}
    app = create_app(
        config={
            "SECRET_KEY": "a-secret-of-the-provider",
            "ENV_FILE": None,
            "PREFERRED_URL_SCHEME": "http",
            "SERVER_NAME": f"localhost:{port}",
            "CANAILLE": {
                "DATABASE": "memory",
                "JAVASCRIPT": False,
                "ACL": {"DEFAULT": {"PERMISSIONS": ["use_oidc"]}},
            },
            "CANAILLE_OIDC": {"ACTIVE_JWKS": [key]},
        }
    )
    app.config["CANAILLE_OIDC"]["USERINFO_MAPPING"]["EMAIL_VERIFIED"] = "true"
    app.config["CANAILLE_OIDC"]["USERINFO_MAPPING"]["PREFERRED_USERNAME"] = "{{ user.user_name }}"
    store = Backend.instance
    with app.app_context():
        people = {}
        for name in PEOPLE:
            people[name] = models.User(
                user_name=name,
                formatted_name=f"{name.title()} Example",
                family_name="Example",
                emails=[f"{name}@example.org"],
                password=password_of(name),
            )
            store.save(people[name])
        groups = {}
        for group, member in GROUPS.items():
            groups[group] = models.Group(display_name=group, members=[people[member]])
            store.save(groups[group])
        client = models.Client(
            client_id=CLIENT_ID,
            client_secret=CLIENT_SECRET,
            client_name="Meridian",
            client_uri="http://meridian.example",
            redirect_uris=[redirect_uri],
            grant_types=["authorization_code", "refresh_token"],
            response_types=["code"],
            scope=["openid", "profile", "email", "groups"],
            token_endpoint_auth_method="client_secret_post",
            post_logout_redirect_uris=[redirect_uri.replace("oauth_callback", "logout")],
        )
        store.save(client)
        client.audience = [client]
        store.save(client)
    server = make_server("127.0.0.1", port, app, server_class=_Server, handler_class=_Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for line in sys.stdin:
        action, name, group = (*line.split(), "")[:3]
        with app.app_context():
            person = store.get(models.User, user_name=name)
            if action == "join":
                found = store.get(models.Group, display_name=group)
                found.members = [*found.members, person]
                store.save(found)
            else:
                now = datetime.datetime.now(datetime.UTC)
                person.lock_date = now - datetime.timedelta(seconds=1) if action == "lock" else None
                store.save(person)
        sys.stdout.write("done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
