"""Time limits for libraries that set none: a service that falls silent must not hold up a run until its own limit."""

from typing import Any

CONNECT_SECONDS = 30.0
SILENCE_SECONDS = 300.0


def with_time_limits(session: Any) -> Any:
    """Return a `requests.Session` whose requests end after CONNECT_SECONDS, or SILENCE_SECONDS without a byte."""
    from requests.adapters import HTTPAdapter  # noqa: PLC0415 - only with what needs it, in the pipeline image

    class Limited(HTTPAdapter):
        def send(self, *args: Any, **more: Any) -> Any:
            # A session gives its adapter all of them by name, and None where nobody set a limit.
            return super().send(*args, **more | {"timeout": more["timeout"] or (CONNECT_SECONDS, SILENCE_SECONDS)})

    session.mount("https://", Limited())
    session.mount("http://", Limited())
    return session
