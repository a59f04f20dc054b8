"""Output saved where its person wants it: in folders whole, in buckets without an ACL; a failure loses nothing."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import pytest

from hub.batch.environment import Given, memory_of
from hub.batch.outputs import Made, NotSavedError, save
from hub.batch.runner import declared_files
from tests.batch.batch_harness import notebook
from tests.storage.archive.buckets import s3_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.batch.batch_harness import RunnerOfTest

KEYS = {"AWS_ACCESS_KEY_ID": "ada", "AWS_SECRET_ACCESS_KEY": "s3cret"}
REFUSED = b"<Error><Code>AccessControlListNotSupported</Code><Message>The bucket does not allow ACLs</Message></Error>"


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """An S3 server as Amazon's buckets are now: whatever names an ACL is refused."""
    with s3_server() as address:
        where = urlsplit(address)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Say nothing."""

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                names = [name.lower() for name in self.headers]
                if "x-amz-acl" in names or any(name.startswith("x-amz-grant") for name in names) or "?acl" in self.path:
                    self.reply(400, REFUSED)
                    return
                connection = http.client.HTTPConnection(where.hostname or "", where.port)
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                data = answer.read()
                self.reply(answer.status, data, dict(answer.headers))
                connection.close()

            def reply(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
                self.send_response(status)
                for name, value in (headers or {}).items():
                    if name.lower() not in {"content-length", "transfer-encoding", "connection"}:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        for method in ("GET", "PUT", "POST", "HEAD", "DELETE"):
            setattr(Handler, f"do_{method}", Handler.handle_any)
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        client_of(url).create_bucket(Bucket="results")
        yield url
        server.shutdown()
        server.server_close()


def client_of(url: str) -> Any:
    return boto3.client(
        "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )


@pytest.fixture
def made(tmp_path: Path) -> Made:
    book = tmp_path / "output.ipynb"
    book.write_text("{}")
    files = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "stars.csv").write_text(folder)
        files.append(tmp_path / folder / "stars.csv")
    return Made("r-1", "stack.ipynb", book, tuple(files))


def test_output_is_saved_into_a_folder_of_the_runs_own(tmp_path, made):
    root = tmp_path / "home"
    where = save("home:results/m31", made, {"home": root}, {})
    assert where == str(root / "results/m31/r-1")
    assert {path.name: path.read_text() for path in Path(where).iterdir()} == {
        "stack.ipynb": "{}",
        "stars.csv": "a",
        "stars-2.csv": "b",
    }
    assert save("home:results/m31", made, {"home": root}, {}) == where, "again, it changes nothing"


def test_output_is_saved_into_a_bucket_that_refuses_acls(store, made):
    where = save("s3://results/surveys/m31", made, {}, KEYS | {"AWS_ENDPOINT_URL": store})
    assert where == "s3://results/surveys/m31/r-1"
    client = client_of(store)
    listed = client.list_objects_v2(Bucket="results", Prefix="surveys/")["Contents"]
    assert sorted(one["Key"].removeprefix("surveys/m31/r-1/") for one in listed) == [
        "stack.ipynb",
        "stars-2.csv",
        "stars.csv",
    ]
    assert client.get_object(Bucket="results", Key="surveys/m31/r-1/stack.ipynb")["Body"].read() == b"{}"
    with pytest.raises(client.exceptions.ClientError, match="does not allow ACLs"):
        client.put_object(Bucket="results", Key="x", Body=b"", ACL="private")


def test_a_bucket_that_is_not_there_is_said_in_a_sentence(store, made):
    with pytest.raises(NotSavedError, match=r"could not be saved to s3://nosuch/x.*NoSuchBucket.*Nothing is lost"):
        save("s3://nosuch/x", made, {}, KEYS | {"AWS_ENDPOINT_URL": store})


def test_a_folder_that_cannot_be_written_to_is_said_in_a_sentence(tmp_path, made):
    (tmp_path / "home").mkdir()
    (tmp_path / "home/results").write_text("a file")
    with pytest.raises(NotSavedError, match="could not be saved to home:results"):
        save("home:results", made, {"home": tmp_path / "home"}, {})
    with pytest.raises(NotSavedError, match="has no scratch"):
        save("scratch:x", made, {"home": tmp_path / "home"}, {})


def run_to_the_end(run: RunnerOfTest, keys: dict[str, str]) -> dict[str, Any]:
    """Start the runner with keys to save with, as the local backend does."""
    descriptor = memory_of(Given({}, keys))
    command = [sys.executable, "-P", "-m", "hub.batch.runner", str(run.directory.path)]
    run.process = subprocess.Popen(command, env=run.environment, stdin=descriptor, start_new_session=True)
    os.close(descriptor)
    return run.finish(120)


WRITES = "from hub.batch.provenance import outputs\nopen('stars.csv', 'w').write('abc')\noutputs('stars.csv')"


@pytest.mark.slow
def test_a_run_saves_its_notebook_and_declared_files_to_a_bucket(
    make_run: Callable[..., RunnerOfTest], store: str
) -> None:
    book = notebook(WRITES, "import os\nassert 'AWS_SECRET_ACCESS_KEY' not in os.environ")
    run = make_run(book, output="s3://results/live", is_given=True, name="stack.ipynb")
    result = run_to_the_end(run, KEYS | {"AWS_ENDPOINT_URL": store})
    assert (result["outcome"], result["error"]) == ("succeeded", None), "and the notebook itself has no keys"
    listed = client_of(store).list_objects_v2(Bucket="results", Prefix="live/")["Contents"]
    assert sorted(one["Key"] for one in listed) == ["live/run0/stack.ipynb", "live/run0/stars.csv"]
    body = client_of(store).get_object(Bucket="results", Key="live/run0/stack.ipynb")["Body"].read()
    assert body == run.directory.output.read_bytes()


@pytest.mark.slow
def test_output_that_cannot_be_saved_is_an_end_of_its_own_and_loses_nothing(
    make_run: Callable[..., RunnerOfTest], store: str
) -> None:
    run = make_run(notebook("print('made')"), output="s3://nosuch/x", is_given=True)
    result = run_to_the_end(run, KEYS | {"AWS_ENDPOINT_URL": store})
    assert (result["outcome"], result["error"]["code"]) == ("failed", "output_not_saved")
    assert "NoSuchBucket" in result["error"]["message"]
    assert "made" in run.directory.output.read_text()
    assert json.loads(run.directory.provenance.read_text())["output_sha256"]


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, "[]", '{"cells": 5}', '{"cells": [5]}', '{"cells": [{"outputs": [5]}]}']
)
def test_a_notebook_that_spoils_its_own_output_is_said_in_a_sentence(tmp_path, text):
    (tmp_path / "output.ipynb").write_text(text)
    with pytest.raises(NotSavedError, match="The executed notebook cannot be read"):
        list(declared_files(tmp_path / "output.ipynb", tmp_path))


ODD = """
from IPython.display import display
for odd in (5, [5, {"path": 5}, {"path": "a" * 5000}, {"path": "x/\\0"}], {"path": "x"}):
    display({"application/vnd.meridian.files+json": {"outputs": odd}, "text/plain": ""}, raw=True)
"""


@pytest.mark.slow
def test_a_notebook_that_declares_what_is_no_file_ends_as_it_ended(make_run: Callable[..., RunnerOfTest]) -> None:
    run = make_run(notebook(ODD), output="home:results", name="stack.ipynb")
    run.start()
    assert run.finish(120)["outcome"] == "succeeded", "it would else be lost, and so repeated and free"
    assert [path.name for path in (Path(run.environment["HOME"]) / "results/run0").iterdir()] == ["stack.ipynb"]


@pytest.mark.slow
def test_a_failed_notebook_is_saved_too_and_keeps_its_own_reason(make_run: Callable[..., RunnerOfTest]) -> None:
    run = make_run(notebook("1 / 0"), output="home:results", name="stack.ipynb")
    run.start()
    assert run.finish(120)["error"]["code"] == "notebook_error"
    assert (Path(run.environment["HOME"]) / "results/run0/stack.ipynb").is_file()
