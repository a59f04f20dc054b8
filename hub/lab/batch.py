"""Brings a notebook of this server to the platform's form for batch runs, for JupyterLab to open it there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol, Self

import httpx
from jupyter_core.utils import ensure_async
from jupyter_server.base.handlers import APIHandler
from tornado.web import HTTPError, authenticated

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

BATCH_PATH = "meridian/batch"
NOTEBOOKS = "/services/allocations/api/v1/notebooks"
TIMEOUT = httpx.Timeout(60.0)


class BatchUnavailableError(Exception):
    """The platform did not take the notebook; `status` is HTTP's for whoever asked, the text is for people."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


class Contents(Protocol):
    """What is asked of Jupyter Server's files."""

    def get(self, path: str, content: bool, type: str) -> Awaitable[Any] | Any:  # noqa: A002  its names
        """Return a file's model."""


class BatchForm:
    """The platform's form, which a notebook is brought to with the server's own token."""

    def __init__(self, url: str, token: str, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        """`url`: the platform's address, as it is reached from here."""
        self._url = f"{url.rstrip('/')}{NOTEBOOKS}"
        # The platform is a neighbour: an outbound proxy from the environment must never see the token.
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {token}"}, timeout=TIMEOUT, transport=transport, trust_env=False
        )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], **options: Any) -> Self | None:
        """From what the spawner gives to each server; None where the platform's address is not known."""
        url, token = environment.get("MERIDIAN_URL"), environment.get("JUPYTERHUB_API_TOKEN")
        return cls(url, token, **options) if url and token else None

    async def bring(self, contents: Contents, path: str) -> str:
        """Bring the notebook of a path, as it is saved; return the path of its form's page.

        Raises BatchUnavailableError, and what the contents raise of a path that is not there.
        """
        model = await ensure_async(contents.get(path, content=True, type="notebook"))
        body = {
            "name": model["name"],
            "notebook": model["content"],
            "source": {"kind": "home", "path": path.lstrip("/")},
        }
        try:
            response = await self._http.post(self._url, json=body)
        except httpx.HTTPError as error:
            raise BatchUnavailableError(503, "The platform does not answer.") from error
        try:
            answer = response.json()
            if response.is_success:
                return str(answer["page"])
            sentence = " ".join(f"{answer['detail']} {answer.get('remedy') or ''}".split())
        except (ValueError, KeyError, TypeError, AttributeError):
            sentence = f"The platform answered with status {response.status_code}."
        # The caller is signed in here: what the platform says of the server's token is no 401 or 403 of theirs.
        status = response.status_code if response.status_code in (413, 422) else 502
        raise BatchUnavailableError(status, sentence)


class BatchHandler(APIHandler):
    """`meridian/batch` of the server: brings the notebook at `path` to its form, and answers with the `page`."""

    def initialize(self, form: BatchForm) -> None:
        """Take the form."""
        super().initialize()
        self._form = form

    @authenticated
    async def post(self) -> None:
        """Answer with the path of the page."""
        body = self.get_json_body()
        path = body.get("path") if isinstance(body, dict) else None
        if not isinstance(path, str) or not path:
            raise HTTPError(400, "Name the notebook's path.", reason="Name the notebook's path.")
        try:
            page = await self._form.bring(self.contents_manager, path)
        except BatchUnavailableError as error:
            # A reason is a header's line: what is not plain there would not arrive.
            reason = error.sentence.encode("ascii", "replace").decode()
            raise HTTPError(error.status, error.sentence, reason=reason) from error
        self.finish(json.dumps({"page": page}))
