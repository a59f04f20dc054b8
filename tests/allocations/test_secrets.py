"""Secrets: encrypted at rest, shown by name alone, and given only to a run of their person that begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select, update

from allocations.db.schema import secrets
from allocations.errors import InvalidInputError, NotFoundError
from allocations.runs.models import Outcome
from allocations.runs.places import require_place
from allocations.runs.secrets import (
    SECRETS_MAX,
    VALUE_BYTES_MAX,
    SecretMissingError,
    SecretsUnavailableError,
    Vault,
)
from tests.allocations.test_runs import finish, submit

if TYPE_CHECKING:
    from tests.allocations.conftest import Bench

KEY, OTHER = "5e" * 32, "7f" * 32


def stored(bench: Bench) -> list[Any]:
    with bench.services.database.read() as connection:
        return list(connection.execute(select(secrets)))


def test_a_value_is_nowhere_in_the_database_and_in_no_answer(bench: Bench) -> None:
    kept = bench.services.secrets.put("ann", "TOKEN", "a very secret value")
    assert "secret value" not in repr(kept) + repr(bench.services.secrets.list_of("ann")) + repr(stored(bench))
    assert [one.name for one in bench.services.secrets.list_of("ann")] == ["TOKEN"]
    assert bench.services.secrets.list_of("bob") == []


def test_a_run_is_given_the_secrets_that_it_names_and_no_others(bench: Bench) -> None:
    for name in ("A", "B", "C"):
        bench.services.secrets.put("ann", name, f"value of {name}")
    run = submit(bench, bench.accept("ann"), environment=("C", "A", "A"))
    assert run.environment == ["A", "C"]
    bench.services.runs.claim("batch", 1)
    given = bench.services.secrets.environment_of(run.id)
    assert given.values == {"A": "value of A", "C": "value of C"}
    assert "value of" not in repr(given)
    assert [one.used_at is not None for one in bench.services.secrets.list_of("ann")] == [True, False, True]


def test_a_value_that_was_changed_meanwhile_is_the_new_one(bench: Bench) -> None:
    bench.services.secrets.put("ann", "A", "old")
    run = submit(bench, bench.accept("ann"), environment=("A",))
    bench.clock.pass_seconds(9)
    changed = bench.services.secrets.put("ann", "A", "new")
    assert changed.changed_at > changed.created_at
    bench.services.runs.claim("batch", 1)
    assert bench.services.secrets.environment_of(run.id).values == {"A": "new"}


def test_secrets_are_given_only_while_a_run_begins_or_goes_on(bench: Bench) -> None:
    bench.services.secrets.put("ann", "A", "a")
    run = submit(bench, bench.accept("ann"), environment=("A",))
    with pytest.raises(NotFoundError):
        bench.services.secrets.environment_of(run.id)
    [claimed] = bench.services.runs.claim("batch", 1)
    assert bench.services.secrets.environment_of(run.id).values == {"A": "a"}
    finish(bench, claimed, Outcome.SUCCEEDED, ran=1)
    with pytest.raises(NotFoundError):
        bench.services.secrets.environment_of(run.id)


def test_a_secret_that_is_not_there_is_named_at_submission_and_at_the_start(bench: Bench) -> None:
    entry = bench.accept("ann")
    bench.services.secrets.put("bob", "A", "bob's")
    with pytest.raises(SecretMissingError, match="You have no secret A"):
        submit(bench, entry, environment=("A",))
    bench.services.secrets.put("ann", "A", "ann's")
    run = submit(bench, entry, environment=("A",))
    bench.services.runs.claim("batch", 1)
    bench.services.secrets.remove("ann", "A")
    with pytest.raises(SecretMissingError):
        bench.services.secrets.environment_of(run.id)
    with pytest.raises(NotFoundError):
        bench.services.secrets.remove("ann", "A")


def test_a_row_that_was_moved_to_another_person_does_not_open(bench: Bench) -> None:
    bench.services.secrets.put("ann", "A", "ann's")
    bench.services.secrets.put("bob", "A", "bob's")
    with bench.services.database.write() as connection:
        (sealed,) = connection.execute(select(secrets.c.value).where(secrets.c.person == "ann")).scalars()
        connection.execute(update(secrets).where(secrets.c.person == "bob").values(value=sealed))
    run = submit(bench, bench.accept("bob"), person="bob", environment=("A",))
    bench.services.runs.claim("batch", 1)
    with pytest.raises(SecretsUnavailableError, match="cannot be opened"):
        bench.services.secrets.environment_of(run.id)


@pytest.mark.parametrize(
    "name", ["", "a b", "1A", "A-B", "ä", "A" * 65, "A\0", "PATH", "MERIDIAN_URL", "LD_PRELOAD", "PYTHONPATH"]
)
def test_a_name_that_cannot_be_a_variable_or_is_the_platforms_is_refused(bench: Bench, name: str) -> None:
    with pytest.raises(InvalidInputError):
        bench.services.secrets.put("ann", name, "a")
    with pytest.raises(InvalidInputError):
        submit(bench, bench.accept("ann"), environment=(name,))


@pytest.mark.parametrize("value", ["", "a\0b", "\ud800", "a" * (VALUE_BYTES_MAX + 1)])
def test_a_value_that_no_variable_can_hold_is_refused(bench: Bench, value: str) -> None:
    with pytest.raises(InvalidInputError):
        bench.services.secrets.put("ann", "A", value)


def test_nobody_keeps_more_than_a_hundred(bench: Bench) -> None:
    for number in range(SECRETS_MAX):
        bench.services.secrets.put("ann", f"A{number}", "a")
    with pytest.raises(InvalidInputError, match="at most 100"):
        bench.services.secrets.put("ann", "B", "a")
    bench.services.secrets.put("ann", "A0", "another value of one that is there")
    assert len(bench.services.secrets.list_of("ann")) == SECRETS_MAX


def test_keys_are_replaced_one_after_the_other() -> None:
    sealed = Vault([KEY]).seal("ann", "A", "a")
    assert Vault([OTHER, KEY]).open("ann", "A", sealed) == "a"
    renewed = Vault([OTHER, KEY]).seal("ann", "A", "a")
    assert Vault([OTHER]).open("ann", "A", renewed) == "a"
    with pytest.raises(SecretsUnavailableError):
        Vault([OTHER]).open("ann", "A", sealed)


def test_without_a_key_nothing_is_kept_and_a_wrong_one_is_named() -> None:
    with pytest.raises(SecretsUnavailableError, match="no key"):
        Vault([]).seal("ann", "A", "a")
    for wrong in ("short", "5e" * 31, "zz" * 32):
        with pytest.raises(InvalidInputError, match="MERIDIAN_SECRETS_KEY"):
            Vault([wrong])


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (None, None),
        ("  ", None),
        ("home:", "home:"),
        ("home:/results//m31/", "home:results/m31"),
        ("scratch:a b", "scratch:a b"),
        ("s3://bucket", "s3://bucket"),
        ("s3://my.bucket-1/pre/fix/", "s3://my.bucket-1/pre/fix"),
    ],
)
def test_a_place_of_output_is_kept_in_one_form(text: str | None, kept: str | None) -> None:
    assert require_place(text) == kept


@pytest.mark.parametrize(
    "text",
    [
        "/etc",
        "results",
        "home:../eve",
        "home:a/./b",
        "scratch:a\0b",
        "s3://",
        "s3://B",
        "s3://ab/../c",
        "s3://-ab",
        "x" * 999,
    ],
)
def test_what_is_no_place_is_refused(bench: Bench, text: str) -> None:
    with pytest.raises(InvalidInputError, match="place of the output"):
        submit(bench, bench.accept("ann"), output=text)


def test_a_bucket_needs_the_persons_keys_which_the_notebook_does_not_get(bench: Bench) -> None:
    entry = bench.accept("ann")
    with pytest.raises(SecretMissingError, match="AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"):
        submit(bench, entry, output="s3://bucket/prefix")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "OTHER"):
        bench.services.secrets.put("ann", name, f"the {name}")
    run = submit(bench, entry, output="s3://bucket/prefix", environment=("OTHER",))
    assert run.output == "s3://bucket/prefix"
    bench.services.runs.claim("batch", 1)
    given = bench.services.secrets.environment_of(run.id)
    assert given.values == {"OTHER": "the OTHER"}
    assert given.output.keys() == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"}
    assert "the AWS" not in repr(given)
