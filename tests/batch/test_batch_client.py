"""The client: what a person types arrives as meant, and what the service says comes back as an error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import nbformat
import pytest

from hub.batch.client import (
    BatchClient,
    NotAuthorizedError,
    NotebookError,
    ParameterError,
    ServiceRefusalError,
    ServiceUnavailableError,
    SettingsError,
    parse_parameter,
)
from tests.batch.batch_harness import FakeService, notebook

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hub.batch.files import RunDirectory


def no_sleep(_seconds: float) -> None:
    """In place of waiting."""


@pytest.fixture
def client(service: FakeService) -> BatchClient:
    return BatchClient(service.base, "ada's token", sleep=no_sleep)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-010", -10),
        ("0x1f", 31),
        ("1e5", 100000.0),
        (".5", 0.5),
        ("true", True),
        ("False", False),
        ("None", None),
        ("null", None),
        ("no", "no"),
        ("12:30:00", "12:30:00"),
        ("2026-09-01", "2026-09-01"),
        ("WFI07: F158 # first", "WFI07: F158 # first"),
        ("*.asdf", "*.asdf"),
        ("", ""),
        ("'3'", "3"),
        ("[1, 2.5, WFI07, no, '4', 12:30:00]", [1, 2.5, "WFI07", "no", "4", "12:30:00"]),
        ("{a: 010, b: [true]}", {"a": 10, "b": [True]}),
    ],
)
def test_a_parameter_is_what_was_meant(text: str, value: Any) -> None:
    assert parse_parameter(text) == value
    assert type(parse_parameter(text)) is type(value)


@pytest.mark.parametrize("text", ["[1, 2", "nan", "-inf", ".inf", "{a: !!python/name:os.system }"])
def test_a_parameter_that_cannot_be_sent_is_refused(text: str) -> None:
    with pytest.raises(ParameterError):
        parse_parameter(text)


def test_a_submission_whose_answer_gets_lost_is_repeated_under_the_same_key(
    client: BatchClient, service: FakeService, queue_run: Callable[..., RunDirectory], tmp_path: Path
) -> None:
    queue_run("x = 1")
    path = tmp_path / "a.ipynb"
    nbformat.write(notebook("x = 1"), path)
    service.failures = [(502, {})]
    run = client.submit(path, "a1", "small", parameters={"n": [1]}, max_seconds=60)
    assert run.id == "run0"
    first, second = [(body, headers) for _, path, body, headers in service.calls if path == "/runs"]
    assert first == second
    assert first[0]["name"] == "a.ipynb"
    assert first[1]["Authorization"] == "Bearer ada's token"


def test_a_refusal_carries_the_detail_and_the_remedy(client: BatchClient, service: FakeService) -> None:
    problem = {"code": "insufficient_balance", "detail": "3 credits are left.", "remedy": "Ask for more."}
    service.failures = [(403, problem), (401, {"detail": "The token has expired."})]
    with pytest.raises(ServiceRefusalError, match=r"3 credits are left\. Ask for more\.") as refused:
        client.get("run0")
    assert (refused.value.code, refused.value.status) == ("insufficient_balance", 403)
    with pytest.raises(NotAuthorizedError, match="The token has expired"):
        client.list()


def test_waiting_outlasts_a_service_that_is_away_for_a_while(
    client: BatchClient, service: FakeService, queue_run: Callable[..., RunDirectory]
) -> None:
    queue_run("x = 1")
    service.failures = [(503, {}), (502, {})]
    told: list[str] = []

    def follow(run: Any) -> None:
        told.append(run.state)
        service.runs["run0"]["state"] = "running" if run.state == "queued" else "succeeded"

    assert client.wait("run0", follow).state == "succeeded"
    assert told == ["queued", "running", "succeeded"]


def test_waiting_gives_up_on_a_service_that_stays_away(service: FakeService) -> None:
    seconds = iter(range(0, 10_000, 100))
    client = BatchClient(service.base, "t", sleep=no_sleep, monotonic=lambda: float(next(seconds)))
    service.down()
    with pytest.raises(ServiceUnavailableError, match="does not answer"):
        client.wait("run0")


def test_a_file_that_is_no_notebook_is_not_sent(client: BatchClient, service: FakeService, tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    for text, says in (("print(1)", "it is not JSON"), ("{}", "it has no cells")):
        path.write_text(text)
        with pytest.raises(NotebookError, match=says):
            client.submit(path, "a1", "small")
    with pytest.raises(NotebookError, match="cannot be read"):
        client.submit(tmp_path / "none.ipynb", "a1", "small")
    assert service.calls == []


def test_the_environment_says_where_and_who() -> None:
    url = {"MERIDIAN_URL": "http://127.0.0.1:1"}
    BatchClient.from_environment({**url, "JUPYTERHUB_API_TOKEN": "t"}).close()
    with pytest.raises(SettingsError, match="MERIDIAN_URL is not set"):
        BatchClient.from_environment({})
    with pytest.raises(SettingsError, match="hub/token"):
        BatchClient.from_environment(url)
