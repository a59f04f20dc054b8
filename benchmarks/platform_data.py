"""A platform after a year: 10,000 allocations and a million journal entries, written in bulk past the services."""

from __future__ import annotations

import json
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from allocations.clock import MS_PER_DAY, MS_PER_SECOND
from allocations.db.database import Database
from allocations.db.migrate import upgrade
from allocations.db.schema import (
    agreements,
    allocations,
    audit,
    balances,
    invitations,
    journal,
    leases,
    members,
    notices,
    overrides,
    people,
    publication_links,
    publications,
    requests,
    reviews,
    runs,
    suspensions,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sqlalchemy import Connection, Table

DAYS = 365
PARTS = 200  # of the one consortium
# One lease of so many runs on the consortium: of a million entries, 100,000 are charges there.
CONSORTIUM_ONE_IN = 4
PEOPLE, INSTITUTIONS, COUNTRIES = 5_000, 300, 40
MEMBERS_OF_CONSORTIUM = 500
QUANTUM_SECONDS, QUANTA = 900, 4
# A hold, four renewals of two entries, an end that frees the last hold: 10 entries for an hour, 4 of them charges.
ENTRIES_PER_LEASE = 10
RATE, CORES, MEMORY_GIB = 13, 1, 4
LIMIT = 10**12
WAITING_REQUESTS, DECIDED_REQUESTS, RUNS = 200, 3_000, 50_000
REVIEWS_OF_A_REQUEST = 2
PLACES_OF_RESEARCHER = 40
CAP = 10**11  # what its lead lets the researcher spend of each allocation
NOTICES, PUBLICATIONS, OVERRIDES, SUSPENSIONS, INVITATIONS = 50_000, 2_000, 500, 50, 500
CONSORTIUM = "a-00000"
RESEARCHER = "person-0000"
_QUANTITIES = json.dumps(
    {
        "seconds": QUANTUM_SECONDS,
        "core_seconds": CORES * QUANTUM_SECONDS,
        "gib_seconds": MEMORY_GIB * QUANTUM_SECONDS,
        "gpu_seconds": 0,
    }
)
_ENTRY = (
    "transaction_id",
    "at_ms",
    "kind",
    "allocation_id",
    "unit",
    "debit",
    "credit",
    "amount",
    "lease_id",
    "actor",
    "quantities",
    "policy_version",
)


class PlatformData:
    """What is written, by number: of `count` allocations the first is the consortium, the next are its parts."""

    def __init__(self, count: int, entries: int, agreement: str) -> None:
        self.count, self.leases, self.agreement = count, entries // ENTRIES_PER_LEASE, agreement
        self.now_ms = time.time_ns() // 10**6
        self.start_ms = self.now_ms - DAYS * MS_PER_DAY

    @property
    def charges_of_consortium(self) -> int:
        """How many of the entries charge the consortium or a part of it."""
        return QUANTA * -(-self.leases // CONSORTIUM_ONE_IN)

    def write(self, url: str) -> None:
        """Write everything into a new database, which is migrated first."""
        with closing(_Opened(url)) as opened:
            upgrade(opened.database)
            with opened.database.write() as connection:
                self._write_people(connection)
                _write(connection, allocations, _ALLOCATION, map(self._allocation, range(self.count)))
                _write(connection, members, _MEMBER, self._members())
                _write(connection, leases, _LEASE, map(self._lease, range(self.leases)))
                _write(connection, journal, _ENTRY, self._entries())
                _write(connection, balances, _BALANCE, self._balances())
                self._write_rest(connection)
            with opened.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                # What PostgreSQL does by itself within a minute or two, perhaps in the middle of the measurement.
                connection.execute(text("VACUUM ANALYZE" if connection.dialect.name == "postgresql" else "ANALYZE"))

    # ------------------------------------------------------------------ inside

    def _write_people(self, connection: Connection) -> None:
        columns = ("name", "first_seen_at_ms", "issuer", "subject", "institution", "country")
        rows = (
            (
                person(number),
                self.start_ms,
                "bench",
                str(number),
                f"Institute {number % INSTITUTIONS}",
                f"C{number % COUNTRIES}",
            )
            for number in range(PEOPLE)
        )
        _write(connection, people, columns, rows)
        _write(
            connection,
            agreements,
            ("person", "version", "accepted_at_ms"),
            ((name, self.agreement, self.now_ms) for name in (RESEARCHER, "admin")),
        )

    def _write_rest(self, connection: Connection) -> None:
        columns = ("at_ms", "actor", "action", "subject", "why", "details", "policy_version")
        step_ms = DAYS * MS_PER_DAY // (20 * self.count)
        rows = (
            (
                self.start_ms + number * step_ms,
                person(number % PEOPLE),
                f"allocation.{('open', 'extend', 'suspend', 'resume')[number % 4]}",
                node(number % self.count),
                "A reason of a few words.",
                '{"microcredits": 1000000}',
                "bench",
            )
            for number in range(20 * self.count)
        )
        _write(connection, audit, columns, rows)
        states = ["submitted"] * WAITING_REQUESTS + ["approved"] * DECIDED_REQUESTS
        _write(connection, requests, _REQUEST, (self._request(*one) for one in enumerate(states)))
        _write(connection, reviews, _REVIEW, self._reviews())
        _write(connection, runs, _RUN, map(self._run, range(RUNS)))
        _write(connection, notices, _NOTICE, map(self._notice, range(NOTICES)))
        _write(connection, publications, _PUBLICATION, map(self._publication, range(PUBLICATIONS)))
        _write(connection, publication_links, _LINK, map(self._link, range(PUBLICATIONS)))
        _write(connection, overrides, _OVERRIDE, map(self._override, range(OVERRIDES)))
        _write(connection, suspensions, _SUSPENSION, map(self._suspension, range(SUSPENSIONS)))
        _write(connection, invitations, _INVITATION, map(self._invitation, range(INVITATIONS)))

    def _node_of(self, lease: int) -> int:
        if lease % CONSORTIUM_ONE_IN == 0:
            return 1 + lease // CONSORTIUM_ONE_IN % PARTS
        return 1 + PARTS + lease * 7_919 % (self.count - 1 - PARTS)

    def _person_of(self, lease: int) -> str:
        if lease % CONSORTIUM_ONE_IN == 0:
            return person(lease // CONSORTIUM_ONE_IN % MEMBERS_OF_CONSORTIUM)
        return person(self._node_of(lease) % PEOPLE)

    def _begin_ms(self, lease: int) -> int:
        return self.start_ms + lease * ((DAYS - 1) * MS_PER_DAY // self.leases)

    def _allocation(self, number: int) -> tuple[Any, ...]:
        is_part = 1 <= number <= PARTS
        root = CONSORTIUM if is_part else node(number)
        tier = "consortium" if number <= PARTS else "research" if number % 10 == 0 else "entry"
        ends_ms = self.now_ms + (30 + number % 300) * MS_PER_DAY
        return (
            node(number),
            CONSORTIUM if is_part else None,
            root,
            int(is_part),
            f"Allocation {number}",
            tier,
            "active",
            False,
            "{}",
            self.start_ms,
            ends_ms,
            "bench",
            self.start_ms + number,
        )

    def _members(self) -> Iterator[tuple[Any, ...]]:
        for number in range(MEMBERS_OF_CONSORTIUM):
            yield CONSORTIUM, person(number), "lead" if number == 0 else "member", self.start_ms, None
        for number in range(1, self.count):
            yield node(number), person(number % PEOPLE), "lead", self.start_ms, None
        for number in range(1 + PARTS, 1 + PARTS + PLACES_OF_RESEARCHER):
            yield node(number), RESEARCHER, "member", self.start_ms, CAP

    def _lease(self, number: int) -> tuple[Any, ...]:
        begin_ms, of = self._begin_ms(number), self._node_of(number)
        end_ms = begin_ms + QUANTA * QUANTUM_SECONDS * MS_PER_SECOND
        return (
            f"lease-{number}",
            node(of),
            CONSORTIUM if of <= PARTS else node(of),
            self._person_of(number),
            "interactive",
            "small",
            "base",
            "",
            CORES,
            MEMORY_GIB,
            0,
            RATE,
            3_600,
            "settled",
            False,
            begin_ms,
            begin_ms,
            end_ms,
            end_ms,
            end_ms,
            "stopped",
            end_ms,
        )

    def _entries(self) -> Iterator[tuple[Any, ...]]:
        for number in range(self.count):
            yield "tx", self.start_ms, "grant", node(number), "credits", "budget", "free", LIMIT, None, "a", None, "b"
        amount = RATE * QUANTUM_SECONDS
        for lease in range(self.leases):
            of, who, begin_ms = node(self._node_of(lease)), self._person_of(lease), self._begin_ms(lease)

            def entry(
                number: int,
                kind: str,
                debit: str,
                credit: str,
                lease: int = lease,
                of: str = of,
                who: str = who,
                begin_ms: int = begin_ms,
            ) -> tuple[Any, ...]:
                at_ms = begin_ms + number * QUANTUM_SECONDS * MS_PER_SECOND
                quantities = _QUANTITIES if credit == "posted" else None
                return (
                    f"tx-{lease}-{number}",
                    at_ms,
                    kind,
                    of,
                    "credits",
                    debit,
                    credit,
                    amount,
                    f"lease-{lease}",
                    who,
                    quantities,
                    "b",
                )

            yield entry(0, "hold", "free", "held")
            for number in range(1, QUANTA + 1):
                yield entry(number, "renew", "held", "posted")
                yield entry(number, "renew", "free", "held")
            yield entry(QUANTA, "settle", "held", "free")

    def _balances(self) -> Iterator[tuple[Any, ...]]:
        posted = [0] * self.count
        for lease in range(self.leases):
            of = self._node_of(lease)
            posted[of] += QUANTA * RATE * QUANTUM_SECONDS
            if of <= PARTS:
                posted[0] += QUANTA * RATE * QUANTUM_SECONDS
        for number, spent in enumerate(posted):
            yield node(number), "credits", LIMIT, 0, spent

    def _request(self, number: int, state: str) -> tuple[Any, ...]:
        at_ms = self.now_ms - number * MS_PER_SECOND
        return (
            f"q-{number}",
            "new",
            person(number % PEOPLE),
            "research",
            f"Request {number}",
            "We look for dark stars.",
            1_000,
            "{}",
            state,
            None,
            at_ms,
            at_ms,
        )

    def _reviews(self) -> Iterator[tuple[Any, ...]]:
        for number in range(WAITING_REQUESTS + DECIDED_REQUESTS):
            for reviewer in range(REVIEWS_OF_A_REQUEST):
                yield (
                    f"q-{number}",
                    f"reviewer-{reviewer}",
                    3 + reviewer,
                    False,
                    "Sound, and well planned.",
                    self.now_ms,
                )

    def _notice(self, number: int) -> tuple[Any, ...]:
        """Every hundredth is the researcher's; one in ten is not read yet."""
        who = RESEARCHER if number % 100 == 0 else person(number % PEOPLE)
        at_ms = self.start_ms + number * (DAYS * MS_PER_DAY // NOTICES)
        details = "{}"
        read_ms = None if number // 100 % 10 == 0 else at_ms
        return who, "ended", node(1 + number % PARTS), str(number), details, "sent", at_ms, read_ms

    def _publication(self, number: int) -> tuple[Any, ...]:
        return f"p-{number}", f"10.1000/{number}", None, f"Dark stars, part {number}", person(number), self.start_ms

    def _link(self, number: int) -> tuple[Any, ...]:
        """One in ten thanks a part of the consortium."""
        of = 1 + number // 10 % PARTS if number % 10 == 0 else number % self.count
        return f"p-{number}", node(of), person(number), self.start_ms

    def _override(self, number: int) -> tuple[Any, ...]:
        kind, subject = ("person", person(number)) if number % 2 == 0 else ("allocation", node(number))
        ends_ms = self.now_ms + (1 + number % 60) * MS_PER_DAY
        return f"o-{number}", kind, subject, '{"cores": 64}', "A deadline.", "admin", self.start_ms, ends_ms

    def _suspension(self, number: int) -> tuple[Any, ...]:
        return f"s-{number}", person(PEOPLE - 1 - number), "A stolen password.", "admin", self.start_ms, self.start_ms

    def _invitation(self, number: int) -> tuple[Any, ...]:
        """One in ten is to the researcher, each to another allocation."""
        who = RESEARCHER if number % 10 == 0 else person(MEMBERS_OF_CONSORTIUM + number)
        of = CONSORTIUM if number % 10 else node(1 + PARTS + PLACES_OF_RESEARCHER + number)
        ends_ms = self.now_ms + 14 * MS_PER_DAY
        return f"i-{number}", of, who, "member", "admin", "pending", self.now_ms, ends_ms

    def _run(self, number: int) -> tuple[Any, ...]:
        at_ms = self.start_ms + number * (DAYS * MS_PER_DAY // RUNS)
        return (
            f"r-{number}",
            RESEARCHER if number % 100 == 0 else person(number % PEOPLE),
            CONSORTIUM,
            "notebook.ipynb",
            "small",
            "base",
            CORES,
            MEMORY_GIB,
            0,
            "{}",
            3_600,
            "succeeded",
            False,
            1,
            10,
            10,
            at_ms,
            at_ms,
            at_ms + 600 * MS_PER_SECOND,
        )


def person(number: int) -> str:
    """Return a person's name."""
    return f"person-{number:04}"


def node(number: int) -> str:
    """Return an allocation's id."""
    return f"a-{number:05}"


class _Opened:
    """A database with the method that `closing` calls."""

    def __init__(self, url: str) -> None:
        self.database = Database(url)

    def close(self) -> None:
        """Close every connection."""
        self.database.dispose()


_ALLOCATION = (
    "id", "parent_id", "root_id", "depth", "name", "tier", "state", "guaranteed", "award", "starts_at_ms", "ends_at_ms",
    "policy_version", "created_at_ms",
)  # fmt: skip
_MEMBER = ("allocation_id", "person", "role", "joined_at_ms", "microcredits_max")
_LEASE = (
    "id", "allocation_id", "root_id", "person", "kind", "size", "image", "server_name", "cores", "memory_gib", "gpus",
    "microcredits_per_second", "idle_seconds", "state", "final", "acquired_at_ms", "started_at_ms", "ends_at_ms",
    "latest_end_at_ms", "ended_at_ms", "end_reason", "moved_at_ms",
)  # fmt: skip
_BALANCE = ("allocation_id", "unit", "limit_amount", "held", "posted")
_REQUEST = (
    "id", "kind", "applicant", "tier", "title", "justification", "credits", "asked", "state", "allocation_id",
    "created_at_ms", "updated_at_ms",
)  # fmt: skip
_REVIEW = ("request_id", "reviewer", "score", "conflict", "comment", "at_ms")
_NOTICE = ("person", "kind", "subject", "threshold", "details", "state", "created_at_ms", "read_at_ms")
_PUBLICATION = ("id", "doi", "bibcode", "title", "added_by", "created_at_ms")
_LINK = ("publication_id", "allocation_id", "linked_by", "created_at_ms")
_OVERRIDE = ("id", "subject_kind", "subject", "limits", "reason", "author", "created_at_ms", "ends_at_ms")
_SUSPENSION = ("id", "person", "reason", "author", "created_at_ms", "stops_at_ms")
_INVITATION = ("id", "allocation_id", "person", "role", "invited_by", "state", "created_at_ms", "ends_at_ms")
_RUN = (
    "id", "person", "allocation_id", "name", "size", "image", "cores", "memory_gib", "gpus", "parameters",
    "max_seconds", "state", "cancel_requested", "attempt", "cells_done", "cells_total", "submitted_at_ms",
    "started_at_ms", "ended_at_ms",
)  # fmt: skip


def _write(connection: Connection, table: Table, columns: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> None:
    """Write rows by the driver alone: COPY on PostgreSQL, a prepared statement repeated on SQLite."""
    driver: Any = connection.connection.driver_connection
    names = ", ".join(columns)
    if connection.dialect.name == "sqlite":
        places = ", ".join("?" * len(columns))
        driver.executemany(f"INSERT INTO {table.name} ({names}) VALUES ({places})", rows)  # noqa: S608  # names of our own
        return
    with driver.cursor() as cursor, cursor.copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)
