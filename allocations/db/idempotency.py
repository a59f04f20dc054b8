"""Remembers the answers to requests that spend: the same key and request get the same answer (invariant 4)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from sqlalchemy import bindparam, delete, insert, select, tuple_
from sqlalchemy.exc import IntegrityError

from allocations.db.schema import idempotency
from allocations.errors import (
    AtOnceLimitError,
    IdempotencyConflictError,
    InsufficientBalanceError,
    InvalidInputError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import Connection

_RECALL = select(idempotency).where(
    idempotency.c.caller == bindparam("of_caller"), idempotency.c.key == bindparam("of_key")
)
_RECALL_ALL = select(idempotency).where(idempotency.c.key.in_(bindparam("keys", expanding=True)))
_REMEMBER = insert(idempotency)
# Rows that another worker is deleting are its own.
_OLDEST = (
    select(idempotency.c.caller, idempotency.c.key)
    .where(idempotency.c.created_at_ms < bindparam("before_ms"))
    .order_by(idempotency.c.created_at_ms)
    .limit(bindparam("at_most"))
    .with_for_update(skip_locked=True)
)
_FORGET = delete(idempotency).where(tuple_(idempotency.c.caller, idempotency.c.key).in_(_OLDEST))
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

    @property
    def name(self) -> tuple[str, str]:
        """What tells keys apart: the caller and the key."""
        return self.caller, self.key

    def recall(self, connection: Connection) -> str | None:
        """Return the remembered answer (JSON), or None; IdempotencyConflictError when the request differs."""
        row = connection.execute(_RECALL, {"of_caller": self.caller, "of_key": self.key}).one_or_none()
        if row is None:
            return None
        if row.request_hash != self.request_hash:
            raise reused()
        return str(row.answer)

    def remember(self, connection: Connection, answer: str, at_ms: int) -> None:
        """Keep the answer (JSON) in the same transaction as what it answers.

        Of two simultaneous requests with one key, the primary key lets one commit; the other fails whole, and
        `answered_once` lets it look again.
        """
        remember_all(connection, [(self, answer)], at_ms)


def reused() -> IdempotencyConflictError:
    """Return the error of a key that was used for another request."""
    return IdempotencyConflictError(
        "This Idempotency-Key was used before, for a different request.", "Use a new key for a new request."
    )


def recall_all(connection: Connection, keys: Sequence[IdempotencyKey]) -> dict[tuple[str, str], tuple[str, str]]:
    """Return (request hash, answer) of those of the keys that are known, by (caller, key).

    Other callers' answers to keys of the same name may be among them.
    """
    if not keys:
        return {}
    rows = connection.execute(_RECALL_ALL, {"keys": sorted({key.key for key in keys})})
    return {(row.caller, row.key): (row.request_hash, row.answer) for row in rows}


def remember_all(connection: Connection, answers: Sequence[tuple[IdempotencyKey, str]], at_ms: int) -> None:
    """Keep answers, as `IdempotencyKey.remember` does."""
    rows = [
        {
            "caller": key.caller,
            "key": key.key,
            "request_hash": key.request_hash,
            "answer": answer,
            "created_at_ms": at_ms,
        }
        # In one order: of two who keep the same keys, the second waits for the first, and none for both.
        for key, answer in sorted(answers, key=lambda one: one[0].name)
    ]
    if rows:
        connection.execute(_REMEMBER, rows)


def forget(connection: Connection, before_ms: int, at_most: int) -> int:
    """Forget the oldest answers that were kept before a time; return how many, up to `at_most`."""
    return connection.execute(_FORGET, {"before_ms": before_ms, "at_most": at_most}).rowcount


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
