"""What a mutation is."""

from dataclasses import dataclass

T = "tests/allocations/test_"
IN_FLIGHT = f"{T}in_flight.py"


@dataclass(frozen=True, slots=True)
class Mutation:
    """An edit of one file, and the tests (as pytest names them) of which one must fail with it.

    Tests that run on both databases run on SQLite alone, unless PostgreSQL is what shows the difference.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    on_postgresql: bool = False
