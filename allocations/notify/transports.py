"""The ways in which mail leaves: to an SMTP server, or into a folder on one machine."""

from __future__ import annotations

import os
import smtplib
import ssl
from dataclasses import dataclass, field
from email import policy
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from email.message import EmailMessage
    from pathlib import Path

TIMEOUT_SECONDS = 10.0


class DeliveryError(Exception):
    """A mail was not taken. The sentence names the kind of failure and never what a server or a secret said.

    `everybody`: the way out is closed, so that the other mails need not try now.
    """

    def __init__(self, reason: str, *, everybody: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.everybody = everybody


class Transport(Protocol):
    """Takes a message for good, or raises DeliveryError."""

    def send(self, message: EmailMessage, name: str) -> None:
        """Send a message; the same `name` means the same mail again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SmtpTransport:
    """An SMTP server; the certificate is checked when STARTTLS is asked for."""

    host: str
    port: int
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    starttls: bool = True
    tls: ssl.SSLContext | None = None

    def send(self, message: EmailMessage, name: str) -> None:  # noqa: ARG002  # the message's own id says the same
        """Send a message over a connection of its own."""
        try:
            with smtplib.SMTP(self.host, self.port, timeout=TIMEOUT_SECONDS) as server:
                if self.starttls:
                    server.starttls(context=self.tls or ssl.create_default_context())
                if self.user is not None:
                    server.login(self.user, self.password or "")
                server.send_message(message)
        except (smtplib.SMTPRecipientsRefused, smtplib.SMTPDataError, smtplib.SMTPNotSupportedError) as error:
            raise DeliveryError(_kind(error), everybody=False) from None
        except UnicodeError as error:
            raise DeliveryError(_kind(error), everybody=False) from None
        except (smtplib.SMTPException, OSError) as error:
            raise DeliveryError(_kind(error), everybody=True) from None


@dataclass(frozen=True, slots=True)
class FileTransport:
    """A folder with one .eml file for each mail."""

    folder: Path

    def send(self, message: EmailMessage, name: str) -> None:
        """Write the mail's file, whole or not at all; the same mail again takes the place of the first."""
        partial = self.folder / f".{name}.{os.getpid()}.part"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(message.as_bytes(policy=policy.SMTP))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.folder / f"{name}.eml")
        except OSError as error:
            raise DeliveryError(_kind(error), everybody=True) from None


def _kind(error: Exception) -> str:
    code = getattr(error, "smtp_code", None)
    return f"{type(error).__name__} {code}" if isinstance(code, int) else type(error).__name__
