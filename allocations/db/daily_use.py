"""The use by day: the statements that derive it from the journal and compare the two, and the triggers that keep it
with each entry.

Kept in the transaction of the charge itself, by whatever writes the journal, so that it is never behind. A row belongs
to one allocation, and who charges on an allocation has locked the balance of its root: nobody waits for a row here who
does not wait there already, and so nobody deadlocks. Entries that charge nothing (holds, grants) pay for nothing.
"""

from __future__ import annotations

MS_PER_DAY = 86_400_000
_QUANTITIES = ("core_seconds", "gib_seconds", "gpu_seconds", "byte_days")
SUMS = ("microcredits", "storage_microcredits", *_QUANTITIES)
_COLUMNS = f"day_ms, allocation_id, person, {', '.join(SUMS)}"
_CHARGES = "{entry}.unit = 'credits' AND ({entry}.debit = 'posted' OR {entry}.credit = 'posted')"


def derive(dialect: str) -> str:
    """Return the query of what the journal says: the rows that the table must have."""
    person = "coalesce(leases.person, journal.actor)"
    sums = ", ".join(f"sum({value}) AS {name}" for name, value in zip(SUMS, _amounts("journal", dialect), strict=True))
    return (
        f"SELECT {_day('journal')} AS day_ms, journal.allocation_id, {person} AS person, {sums}"  # noqa: S608  # names of our own
        f" FROM journal LEFT JOIN leases ON leases.id = journal.lease_id WHERE {_CHARGES.format(entry='journal')}"
        f" GROUP BY {_day('journal')}, journal.allocation_id, {person}"
    )


def fill(dialect: str) -> str:
    """Return the statement that writes the rows into the empty table."""
    return f"INSERT INTO daily_use ({_COLUMNS}) {derive(dialect)}"  # as above


def differences(dialect: str) -> str:
    """Return the query of the rows that are missing, wrong or too many: their keys, whether each is `kept` and
    `derived`, and every amount as `kept_…` and `derived_…`."""
    both = (
        f"SELECT {_COLUMNS}, 1 AS is_kept FROM daily_use"  # noqa: S608  # as above
        f" UNION ALL SELECT {_COLUMNS}, 0 AS is_kept FROM ({derive(dialect)}) AS derived"
    )
    # One row of a key at most on each side, so that the largest is the row's own and no sum can overflow.
    sides = {"kept": "is_kept = 1", "derived": "is_kept = 0"}
    of = {side: {name: f"max(CASE WHEN {which} THEN {name} END)" for name in SUMS} for side, which in sides.items()}
    columns = [f"{amount} AS {side}_{name}" for side, amounts in of.items() for name, amount in amounts.items()]
    differ = " OR ".join(f"{of['kept'][name]} <> {of['derived'][name]}" for name in SUMS)
    return (
        "SELECT day_ms, allocation_id, person, max(is_kept) AS kept, 1 - min(is_kept) AS derived,"  # noqa: S608  # as above
        f" {', '.join(columns)} FROM ({both}) AS compared GROUP BY day_ms, allocation_id, person"
        f" HAVING count(*) <> 2 OR {differ} ORDER BY day_ms, allocation_id, person"
    )


def keep(dialect: str) -> list[str]:
    """Return the statements that make the database keep the table from now on."""
    person = "coalesce((SELECT person FROM leases WHERE id = NEW.lease_id), NEW.actor)"
    values = ", ".join((_day("NEW"), "NEW.allocation_id", person, *_amounts("NEW", dialect)))
    sums = ", ".join(f"{name} = daily_use.{name} + excluded.{name}" for name in SUMS)
    add = (
        f"INSERT INTO daily_use ({_COLUMNS}) VALUES ({values})"  # noqa: S608  # as above
        f" ON CONFLICT (day_ms, allocation_id, person) DO UPDATE SET {sums};"
    )
    when = _CHARGES.format(entry="NEW")
    if dialect == "sqlite":
        return [f"CREATE TRIGGER journal_keeps_daily_use AFTER INSERT ON journal WHEN {when} BEGIN {add} END"]
    return [
        f"""CREATE FUNCTION journal_keeps_daily_use() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN {add} RETURN NULL; END $$""",
        f"""CREATE TRIGGER journal_keeps_daily_use AFTER INSERT ON journal
            FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION journal_keeps_daily_use()""",
    ]


def _day(entry: str) -> str:
    return f"{entry}.at_ms - {entry}.at_ms % {MS_PER_DAY}"


def _amounts(entry: str, dialect: str) -> list[str]:
    """Return what an entry charges, below zero where it gives back: microcredits, those of them that are for storage,
    and physical quantities."""
    sign = f"CASE WHEN {entry}.credit = 'posted' THEN 1 ELSE -1 END"
    stored = f"CASE WHEN {entry}.kind = 'storage' THEN {entry}.amount ELSE 0 END"
    quantities = (_quantity(entry, one, dialect) for one in _QUANTITIES)
    return [f"({sign}) * {value}" for value in (f"{entry}.amount", f"({stored})", *quantities)]


def _quantity(entry: str, name: str, dialect: str) -> str:
    read = f"json_extract({entry}.quantities, '$.{name}')"
    if dialect != "sqlite":
        read = f"({entry}.quantities::json ->> '{name}')::bigint"
    return f"coalesce({read}, 0)"
