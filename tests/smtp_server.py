"""A real SMTP server as a process of its own: keeps each accepted mail as a file, its recipients in front.

`python -m tests.smtp_server FOLDER [CERTIFICATE KEY]` prints its port; with a certificate it insists on STARTTLS and on
the account `meridian` with the password `correct horse`. A recipient at `refused.example` is refused.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

ACCOUNT, PASSWORD = b"meridian", b"correct horse"


class Keeper:
    """Keeps what is accepted, each called by its number."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    async def handle_RCPT(  # noqa: N802  # the library's name
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any
    ) -> str:
        if address.endswith("@refused.example"):
            return "550 no such person, and a secret of the server"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802  # as above
        kept = {"to": envelope.rcpt_tos, "from": envelope.mail_from, "content": envelope.content.decode()}
        self._count += 1
        partial = self._folder / f".{self._count:08}"
        partial.write_text(json.dumps(kept))
        partial.rename(self._folder / partial.name.removeprefix("."))
        return "250 OK"


def _authenticate(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
    known = isinstance(data, LoginPassword) and (data.login, data.password) == (ACCOUNT, PASSWORD)
    return AuthResult(success=known, handled=known)


class EphemeralController(Controller):
    """Serves on a free port, which is known once it is bound."""

    def _trigger_server(self) -> None:
        assert isinstance(self.server, asyncio.Server)
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


def main(folder: str, certificate: str = "", key: str = "") -> None:
    """Serve until standard input is closed."""
    options: dict[str, Any] = {}
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        options = {
            "tls_context": context,
            "require_starttls": True,
            "auth_required": True,
            "authenticator": _authenticate,
        }
    controller = EphemeralController(Keeper(Path(folder)), hostname="127.0.0.1", port=0, **options)
    controller.start()
    sys.stdout.write(f"{controller.port}\n")
    sys.stdout.flush()
    sys.stdin.read()
    controller.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
