"""Notebooks of repositories: one file at a revision from a real git server, and nothing else of the repository."""

from __future__ import annotations

import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import nbformat
import pytest

from hub.batch import repositories
from hub.batch.repositories import RepositoryError, RepositoryPlace, fetch
from hub.batch.sources import NotebookError, notebook_at
from tests.batch.batch_harness import notebook

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

IDENTITY = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org", "GIT_COMMITTER_NAME": "a"} | {
    "GIT_COMMITTER_EMAIL": "a@example.org",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "PATH": os.environ["PATH"],
}


def git(directory: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=directory, env=IDENTITY, check=True, capture_output=True, text=True)
    return done.stdout.strip()


class GitServer:
    """git's own HTTP backend over a directory of repositories, behind an ordinary web server."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[str] = []
        self.silent = False
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._serve()

            def do_POST(self) -> None:
                self._serve()

            def log_message(self, *_: object) -> None:
                pass

            def _serve(self) -> None:
                server.asked.append(self.path)
                if server.silent:
                    server.released.wait(60)
                    return
                parts = urlsplit(self.path)
                environment = {
                    "PATH": os.environ["PATH"],
                    "GIT_PROJECT_ROOT": str(server.root),
                    "GIT_HTTP_EXPORT_ALL": "1",
                    "REQUEST_METHOD": self.command,
                    "PATH_INFO": parts.path,
                    "QUERY_STRING": parts.query,
                    "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                    "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                    "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                    "REMOTE_ADDR": "127.0.0.1",
                }
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                done = subprocess.run(
                    ["git", "http-backend"], input=body, env=environment, capture_output=True, check=False
                )
                head, _, content = done.stdout.partition(b"\r\n\r\n")
                headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
                self.send_response(int(headers.pop("Status", "200 OK").split()[0]))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self.released = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.released.set()
        self._http.shutdown()
        self._http.server_close()


class Repository:
    """A repository with two revisions of a notebook, among other files."""

    def __init__(self, root: Path, *, partial: bool) -> None:
        self.work = root / "work"
        self.work.mkdir()
        git(self.work, "init", "--quiet", "--initial-branch=main")
        self.first = self.commit("x = 1")
        git(self.work, "tag", "v1")
        (self.work / "other.bin").write_bytes(os.urandom(300_000))
        (self.work / "link.ipynb").symlink_to("/etc/passwd")
        self.second = self.commit("x = 2")
        self.bare = root / "served" / "group" / "science.git"
        git(root, "clone", "--quiet", "--bare", str(self.work), str(self.bare))
        if partial:
            git(self.bare, "config", "uploadpack.allowFilter", "true")
            git(self.bare, "config", "uploadpack.allowAnySHA1InWant", "true")

    def commit(self, source: str) -> str:
        (self.work / "n").mkdir(exist_ok=True)
        book = notebook(source)
        nbformat.write(book, self.work / "n" / "a b.ipynb")
        git(self.work, "add", "-A")
        git(self.work, "commit", "--quiet", "-m", source)
        return git(self.work, "rev-parse", "HEAD")


@pytest.fixture
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> Repository:
    return Repository(tmp_path, partial=getattr(request, "param", True))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    served = GitServer(tmp_path / "served")
    yield served
    served.close()


# A host that does not leave contents out sends them all, of the one revision.
@pytest.mark.parametrize("repository", [True, False], ids=["partial", "whole"], indirect=True)
def test_a_notebook_is_read_at_a_branch_a_tag_a_commit_or_as_it_is(repository: Repository, server: GitServer) -> None:
    address = f"{server.url}/group/science.git"
    for at, commit, source in [
        ("", repository.second, "x = 2"),
        ("@main", repository.second, "x = 2"),
        ("@v1", repository.first, "x = 1"),
        (f"@{repository.first}", repository.first, "x = 1"),
    ]:
        book, found = notebook_at(f"git+{address}{at}#n/a%20b.ipynb")
        assert book["cells"][0]["source"] in (source, [source])
        assert (found.kind, found.address, found.revision, found.path) == ("repository", address, commit, "n/a b.ipynb")


def test_what_is_not_there_is_said_in_a_sentence(repository: Repository, server: GitServer) -> None:
    address = f"git+{server.url}/group/science.git"
    for place, says in [
        (f"{address}@nosuch#n/a.ipynb", "no revision 'nosuch' at http"),
        (f"{address}@{'0' * 40}#n/a.ipynb", "no revision '000"),
        (f"{address}#n/none.ipynb", "has no file n/none.ipynb at HEAD"),
        (f"{address}#link.ipynb", "has no file link.ipynb"),
        (f"git+{server.url}/group/other.git#a.ipynb", "There is no repository at http"),
    ]:
        with pytest.raises(NotebookError, match=says):
            notebook_at(place)


def test_what_is_no_notebook_is_refused(repository: Repository, server: GitServer) -> None:
    (repository.work / "n" / "bad.ipynb").write_text("print(1)")
    git(repository.work, "add", "-A")
    git(repository.work, "commit", "--quiet", "-m", "bad")
    git(repository.work, "push", "--quiet", str(repository.bare), "main")
    with pytest.raises(NotebookError, match=r"n/bad\.ipynb is not a Jupyter notebook: it is not JSON"):
        notebook_at(f"git+{server.url}/group/science.git#n/bad.ipynb")


def test_a_host_that_does_not_answer_is_given_up(
    repository: Repository, server: GitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repositories, "FETCH_SECONDS", 1.0)
    server.silent = True
    with pytest.raises(NotebookError, match="did not answer within 1 seconds"):
        notebook_at(f"git+{server.url}/group/science.git#n/a.ipynb")


def test_a_file_or_a_history_that_is_too_large_is_refused(
    repository: Repository, server: GitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"git+{server.url}/group/science.git#n/a%20b.ipynb"
    monkeypatch.setattr(repositories, "NOTEBOOK_BYTES_MAX", 10)
    with pytest.raises(NotebookError, match="larger than"):
        notebook_at(place)
    monkeypatch.setattr(repositories, "FETCHED_BYTES_MAX", 200)
    with pytest.raises(NotebookError):
        notebook_at(place)


def test_nothing_of_the_persons_or_the_repositorys_settings_is_executed(
    repository: Repository, server: GitServer, tmp_path: Path
) -> None:
    trap, home = tmp_path / "trapped", tmp_path / "home"
    hooks = home / "hooks"
    hooks.mkdir(parents=True)
    for name in ("post-checkout", "reference-transaction", "post-index-change"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {trap}\n")
        (hooks / name).chmod(0o755)
    (home / ".gitconfig").write_text(
        f'[core]\n hooksPath = {hooks}\n fsmonitor = touch {trap}\n[protocol "file"]\n allow = always\n'
        f'[url "file://{repository.bare}"]\n insteadOf = {server.url}/redirected\n'
    )
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "GIT_SSH_COMMAND": f"touch {trap}"}
    assert fetch(RepositoryPlace.parse(f"{server.url}/group/science.git#n/a%20b.ipynb"), environment).content
    with pytest.raises(RepositoryError, match="not allowed"):
        fetch(RepositoryPlace.parse(f"{server.url}/redirected#n/a%20b.ipynb"), environment)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("git+file:///etc#a.ipynb", "by https only, not by file"),
        ("git+ext::sh -c id#a.ipynb", "by https only, not by ext"),
        ("git+ssh://git@host/a#a.ipynb", "by https only, not by ssh"),
        ("git+http://example.org/a#a.ipynb", "by https only, not by http"),
        ("git+https://ann:token@example.org/a#a.ipynb", "Leave user name and password out"),
        ("git+https://example.org/a", "Say which notebook"),
        ("git+https://example.org/a#../a.ipynb", "Say which notebook"),
        ("git+https://example.org/a#/a.ipynb", "Say which notebook"),
        ("git+https://example.org/a#--upload-pack=x/a.ipynb", "Say which notebook"),
        ("git+https://example.org/a#script.py", "Say which notebook"),
        ("git+https://example.org/a@--upload-pack=id#a.ipynb", "is not the name of a branch"),
        ("git+https://example.org/a@a:b#a.ipynb", "is not the name of a branch"),
        ("git+https://example.org/a@#a.ipynb", "is not the name of a branch"),
        ("git+https://example.org/--upload-pack=id#a.ipynb", "names no repository"),
        ("git+https://example.org#a.ipynb", "names no repository"),
        ("git+https://[x/a#a.ipynb", "is no address"),
    ],
)
def test_places_that_could_lead_elsewhere_are_refused_before_git_is_asked(text: str, says: str) -> None:
    with pytest.raises(NotebookError, match=says):
        notebook_at(text)


def test_without_git_a_file_can_still_be_submitted(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="There is no git on this machine"):
        fetch(RepositoryPlace.parse("git+https://example.org/a#a.ipynb"), {"PATH": str(tmp_path)})
