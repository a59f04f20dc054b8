"""What runs inside a person's server: it asks the hub how long the server can go on, for JupyterLab to show it,
and brings notebooks to the form for batch runs.

A Jupyter Server extension (this package) and a JupyterLab extension (`share/labextensions`). Images install both, see
`images/labs.Dockerfile`; in local mode the spawner names their folders. Without a hub there is neither.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    """Tell Jupyter Server where `_load_jupyter_server_extension` is."""
    return [{"module": "hub.lab"}]


def _load_jupyter_server_extension(server: ServerApp) -> None:
    """Add the addresses that JupyterLab asks; nothing where no hub has started this server."""
    # Only now: whoever only asks for the extension's name needs no web server.
    from hub.lab.batch import BATCH_PATH, BatchForm, BatchHandler  # noqa: PLC0415
    from hub.lab.handlers import SESSION_PATH, HubSession, SessionHandler  # noqa: PLC0415

    session = HubSession.from_environment(os.environ)
    if session is None:
        return
    base = server.base_url.rstrip("/")
    web_app: Any = server.web_app  # tornado's carries no types here
    web_app.add_handlers(".*$", [(f"{base}/{SESSION_PATH}", SessionHandler, {"session": session})])
    form = BatchForm.from_environment(os.environ)
    if form is not None:
        web_app.add_handlers(".*$", [(f"{base}/{BATCH_PATH}", BatchHandler, {"form": form})])
