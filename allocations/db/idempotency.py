"""Remembers the answers to requests that spend: the same key and request get the same answer (invariant 4)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from sqlalchemy import bindparam, insert, select
from sqlalchemy.exc import IntegrityError

from allocations.db.schema import idempotency
from allocations.errors import (
    AtOnceLimitError,
    IdempotencyConflictError,
    InsufficientBalanceError,
    InvalidInputError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import Connection

_RECALL = select(idempotency).where(
    idempotency.c.caller == bindparam("of_caller"), idempotency.c.key == bindparam("of_key")
)
_REMEMBER = insert(idempotency)
KEY_LENGTH_MAX = 200
Answer = TypeVar("Answer")
Parameters = ParamSpec("Parameters")


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A caller's key for one request; keys of different callers never meet."""

    caller: str
    key: str
    request_hash: str

    @classmethod
    def for_request(cls, caller: str, key: str, operation: str, body: Mapping[str, object]) -> IdempotencyKey:
        """Make the key of a request; InvalidInputError when the key is empty or too long."""
        if not 0 < len(key) <= KEY_LENGTH_MAX:
            raise InvalidInputError(
                f"The Idempotency-Key must have 1 to {KEY_LENGTH_MAX} characters.",
                "Send a new random key with each new request, and the same one when you repeat it.",
            )
        canonical = json.dumps([operation, body], sort_keys=True, separators=(",", ":"))
        return cls(caller, key, hashlib.sha256(canonical.encode()).hexdigest())

    def recall(self, connection: Connection) -> str | None:
        """Return the remembered answer (JSON), or None; IdempotencyConflictError when the request differs."""
        row = connection.execute(_RECALL, {"of_caller": self.caller, "of_key": self.key}).one_or_none()
        if row is None:
            return None
        if row.request_hash != self.request_hash:
            raise IdempotencyConflictError(
                "This Idempotency-Key was used before, for a different request.",
                "Use a new key for a new request.",
            )
        return str(row.answer)

    def remember(self, connection: Connection, answer: str, at_ms: int) -> None:
        """Keep the answer (JSON) in the same transaction as what it answers.

        Of two simultaneous requests with one key, the primary key lets one commit; the other fails whole, and
        `answered_once` lets it look again.
        """
        connection.execute(
            _REMEMBER,
            {
                "caller": self.caller,
                "key": self.key,
                "request_hash": self.request_hash,
                "answer": answer,
                "created_at_ms": at_ms,
            },
        )


def answered_once(act: Callable[Parameters, Answer]) -> Callable[Parameters, Answer]:
    """Make a method that is one transaction look again when another with the same key may have won meanwhile.

    That one's commit shows as the key that is there already, or as the room and balance that it took itself.
    """

    @wraps(act)
    def act_again(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Answer:
        try:
            return act(*args, **kwargs)
        except (IntegrityError, AtOnceLimitError, InsufficientBalanceError):
            return act(*args, **kwargs)

    return act_again
