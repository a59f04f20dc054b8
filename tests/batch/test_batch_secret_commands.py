"""`meridian secrets …`: a value is never an argument, and what comes from a pipe is kept as it is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from allocations.cli import main

if TYPE_CHECKING:
    from tests.batch.batch_harness import FakeService


@pytest.fixture
def environment(service: FakeService) -> dict[str, str]:
    def answer(method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if method == "GET":
            return 200, {"secrets": [{"name": "TOKEN", "changed_at": "now", "used_at": None}]}
        return 200, {}

    service.answer = answer  # type: ignore[method-assign]
    return {"MERIDIAN_URL": service.base, "MERIDIAN_TOKEN": "t"}


@pytest.mark.parametrize(("piped", "kept"), [("s3cret\n", "s3cret"), ("two\nlines\n", "two\nlines"), ("bare", "bare")])
def test_a_value_comes_from_standard_input(service: FakeService, environment: dict[str, str], piped, kept) -> None:
    done = CliRunner().invoke(main, ["secrets", "set", "TOKEN"], input=piped, env=environment)
    assert (done.exit_code, "s3cret" in done.output) == (0, False)
    (call,) = service.calls
    assert call[:3] == ("PUT", "/secrets/TOKEN", {"value": kept})


def test_there_is_no_way_to_give_a_value_as_an_argument(service: FakeService, environment: dict[str, str]) -> None:
    refused = CliRunner().invoke(main, ["secrets", "set", "TOKEN", "s3cret"], env=environment)
    assert refused.exit_code == 2
    empty = CliRunner().invoke(main, ["secrets", "set", "TOKEN"], input="", env=environment)
    assert (empty.exit_code, service.calls) == (1, [])


def test_secrets_are_listed_and_removed_by_name(service: FakeService, environment: dict[str, str]) -> None:
    listed = CliRunner().invoke(main, ["secrets", "list", "--json"], env=environment)
    assert json.loads(listed.output)[0]["name"] == "TOKEN"
    assert "never" in CliRunner().invoke(main, ["secrets", "list"], env=environment).output
    assert CliRunner().invoke(main, ["secrets", "remove", "TOKEN"], env=environment).exit_code == 0
    assert service.calls[-1][:2] == ("DELETE", "/secrets/TOKEN")
