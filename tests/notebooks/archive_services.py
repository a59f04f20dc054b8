"""Stand-ins for archives' services that cannot be reached from here: MAST's search of missions, and a TAP service.

They answer in the real services' formats, and take only what those take: for MAST, the requests that astroquery sends
and the answers that its own tests keep; for TAP, the parameters of TAP 1.1, jobs of UWS 1.1 and the one shape of ADQL
that is asked for. Whatever else comes is refused, and kept in `refused`.
"""

from __future__ import annotations

import io
import json
import re
import threading
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from astropy.coordinates import SkyCoord
from astropy.io.votable import from_table
from astropy.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pandas as pd

NUMBER = r"(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"
CONE = re.compile(
    r"SELECT TOP (\d+) (\w+(?:, \w+)*) FROM (\w+(?:\.\w+)?) WHERE 1 = "
    rf"CONTAINS\(POINT\('ICRS', ra, dec\), CIRCLE\('ICRS', {NUMBER}, {NUMBER}, {NUMBER}\)\)"
)
JOB = """<?xml version="1.0" encoding="UTF-8"?>
<uws:job xmlns:uws="http://www.ivoa.net/xml/UWS/v1.0" xmlns:xlink="http://www.w3.org/1999/xlink" version="1.1">
  <uws:jobId>{number}</uws:jobId>
  <uws:ownerId>anonymous</uws:ownerId>
  <uws:phase>{phase}</uws:phase>
  <uws:quote>2027-05-01T00:00:00Z</uws:quote>
  <uws:creationTime>2027-05-01T00:00:00Z</uws:creationTime>
  <uws:executionDuration>0</uws:executionDuration>
  <uws:destruction>2027-05-08T00:00:00Z</uws:destruction>
  <uws:results>{results}</uws:results>
</uws:job>"""


@dataclass
class Service:
    """What a stand-in has, and what it was asked that the real one would not understand."""

    refused: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    # The request whose path begins with this is never answered.
    silent: str | None = None
    woken: threading.Event = field(default_factory=threading.Event)


@dataclass
class Tap(Service):
    """Tables by name. Answers given at once have at most `most_rows`, those given later `most_rows_later`."""

    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    most_rows: int = 1000
    most_rows_later: int = 10_000
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class Mast(Service):
    """One exposure, its products by their URI, and the tokens of those who may have those that are not public."""

    position: tuple[float, float] = (0.0, 0.0)
    products: dict[str, Path] = field(default_factory=dict)
    exclusive: frozenset[str] = frozenset()
    tokens: frozenset[str] = frozenset()
    # More of the exposures, at the same place, without products.
    more_exposures: int = 0


class Handler(BaseHTTPRequestHandler, ABC):
    """Requests of either kind."""

    protocol_version = "HTTP/1.1"
    service: ClassVar[Service]

    def log_message(self, *_args: object) -> None:
        """Say nothing."""

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.service.asked.append(f"{self.command} {self.path}")
        if self.service.silent and self.path.startswith(self.service.silent):
            self.service.woken.wait()
            self.close_connection = True
            return
        address = urlsplit(self.path)
        try:
            self.reply(address.path, parse_qs(address.query), body)
        except (LookupError, ValueError, TypeError) as error:
            self.service.refused.append(f"{self.command} {self.path} {body!r}: {error!r}")
            self.send(404, b"not understood")

    @abstractmethod
    def reply(self, path: str, query: dict[str, list[str]], body: bytes) -> None:
        """Answer a request; LookupError, ValueError or TypeError for one that no such service would understand."""

    def send(self, status: int, content: bytes, kind: str = "text/plain", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def send_json(self, content: Any) -> None:
        self.send(200, json.dumps(content).encode(), "application/json")

    do_GET = do_POST = do_DELETE = handle_any  # noqa: N815


class TapHandler(Handler):
    """`/tap/sync`, and jobs below `/tap/async`."""

    service: ClassVar[Tap]

    def reply(self, path: str, query: dict[str, list[str]], body: bytes) -> None:
        asked = {name: values[0] for name, values in parse_qs(body.decode(), strict_parsing=bool(body)).items()}
        steps = path.strip("/").split("/")
        match (self.command, steps[:2], steps[2:]):
            case ("POST", ["tap", "sync"], []):
                self.send(*self.answer(asked, self.service.most_rows))
            case ("POST", ["tap", "async"], []):
                number = str(len(self.service.jobs) + 1)
                self.service.jobs[number] = {"asked": asked, "phase": "PENDING"}
                self.send(303, b"", Location=f"/tap/async/{number}")
            case ("POST", ["tap", "async"], [number, "phase"]):
                if asked != {"PHASE": "RUN"}:
                    raise ValueError(asked)
                self.service.jobs[number]["phase"] = "COMPLETED"
                self.send(303, b"", Location=f"/tap/async/{number}")
            case ("GET", ["tap", "async"], [number]) if query in ({}, {"WAIT": ["-1"]}):
                self.send(200, self.job(number), "text/xml")
            case ("GET", ["tap", "async"], [number, "results", "result"]):
                self.send(*self.answer(self.service.jobs[number]["asked"], self.service.most_rows_later))
            case ("DELETE", ["tap", "async"], [number]):
                self.service.jobs.pop(number)
                self.send(303, b"", Location="/tap/async")
            case _:
                raise ValueError(path)

    def job(self, number: str) -> bytes:
        phase = self.service.jobs[number]["phase"]
        address = f"http://{self.headers['Host']}/tap/async/{number}/results/result"
        results = f'<uws:result id="result" xlink:href="{address}"/>' if phase == "COMPLETED" else ""
        return JOB.format(number=number, phase=phase, results=results).encode()

    def answer(self, asked: dict[str, str], most_rows: int) -> tuple[int, bytes, str]:
        """Status, VOTable and its type."""
        if asked.keys() != {"REQUEST", "LANG", "MAXREC", "QUERY"} or asked["REQUEST"] != "doQuery":
            raise ValueError(asked)
        understood = CONE.fullmatch(asked["QUERY"]) if asked["LANG"] == "ADQL" else None
        if not understood:
            raise ValueError(asked["QUERY"])
        top, columns, name = int(understood[1]), understood[2].split(", "), understood[3]
        ra, dec, radius = map(float, understood.groups()[3:])
        table = self.service.tables.get(name)
        unknown = [name] if table is None else [column for column in columns if column not in table]
        if table is None or unknown:
            return 400, refusal(f"{unknown[0]} is not known here"), "application/x-votable+xml"
        places = SkyCoord(table["ra"].to_numpy(), table["dec"].to_numpy(), unit="deg")
        near = table[places.separation(SkyCoord(ra, dec, unit="deg")).deg < radius][columns].head(top)
        most = min(int(asked["MAXREC"]), most_rows)
        return 200, votable(near.head(most), cut_off=len(near) > most), "application/x-votable+xml"


class MastHandler(Handler):
    """The search of missions and its downloads, as at https://mast.stsci.edu/search."""

    service: ClassVar[Mast]

    def reply(self, path: str, query: dict[str, list[str]], body: bytes) -> None:
        match (self.command, path):
            case ("GET", "/whoami"):
                self.send_json({"anon": not self.known, "attrib": {"display_name": "A Person"}, "scopes": []})
            case ("POST", "/search/roman/api/v0.1/search"):
                self.send_json(self.exposures(json.loads(body)))
            case ("POST", "/search/roman/api/v0.1/post_list_products"):
                self.send_json({"products": self.products(json.loads(body))})
            case ("GET", "/search/roman/api/v0.1/retrieve_product"):
                (name,) = query.pop("product_name")
                if query:
                    raise ValueError(query)
                self.download(name)
            case _:
                raise ValueError(path)

    @property
    def known(self) -> bool:
        cookie = SimpleCookie(self.headers.get("Cookie", "")).get("mast_token")
        return cookie is not None and cookie.value in self.service.tokens

    def exposures(self, asked: dict[str, Any]) -> dict[str, Any]:
        if asked.keys() != {"target", "radius", "radius_units", "limit", "offset", "select_cols", "conditions"}:
            raise ValueError(asked)
        if (asked["radius_units"], asked["offset"], asked["conditions"]) != ("arcseconds", 0, []):
            raise ValueError(asked)
        (target,) = asked["target"]
        ra, dec = map(float, target.split())
        here = SkyCoord(*self.service.position, unit="deg")
        found = here.separation(SkyCoord(ra, dec, unit="deg")).arcsec <= asked["radius"]
        names = [f"r{number:019d}" for number in range(1 + self.service.more_exposures)] if found else []
        results = [{"fileSetName": name, "ang_sep": 0.1} for name in names[: asked["limit"]]]
        info = [{"name": "fileSetName", "type": "VARCHAR"}, {"name": "ang_sep", "type": "FLOAT"}]
        return {
            "messages": [],
            "info": info,
            "search_params": asked,
            "totalResults": len(names),
            "results": results,
        }

    def products(self, asked: dict[str, Any]) -> list[dict[str, Any]]:
        if asked != {"dataset_ids": ["r0000000000000000000"]}:
            raise ValueError(asked)
        return [
            {
                "product_key": uri.replace("/", "_"),
                "access": "EXCLUSIVE" if uri in self.service.exclusive else "PUBLIC",
                "dataset": uri.split("/")[0],
                "filename": uri.split("/")[-1],
                "uri": uri,
                "category": "CALIBRATED",
                "size": None if uri in self.service.exclusive else file.stat().st_size,
                "type": "science",
            }
            for uri, file in self.service.products.items()
        ]

    def download(self, name: str) -> None:
        if name not in self.service.products:
            self.send(404, b"no such product")
        elif name in self.service.exclusive and not self.known:
            self.send(401, b"not authorized")
        else:
            self.send(200, self.service.products[name].read_bytes(), "application/octet-stream")


def votable(rows: pd.DataFrame, *, cut_off: bool) -> bytes:
    """A table as TAP gives it: its status before it, and after it once more where it was cut off."""
    file = io.BytesIO()
    from_table(Table.from_pandas(rows)).to_xml(file)
    text = file.getvalue().decode()
    before = '<RESOURCE type="results">\n  <INFO name="QUERY_STATUS" value="OK"/>'
    after = '<INFO name="QUERY_STATUS" value="OVERFLOW"/>\n </RESOURCE>' if cut_off else "</RESOURCE>"
    assert text.count('<RESOURCE type="results">') == text.count("</RESOURCE>") == 1, text[:400]
    return text.replace('<RESOURCE type="results">', before).replace("</RESOURCE>", after).encode()


def refusal(reason: str) -> bytes:
    """A TAP service's words on a query that it does not take."""
    return (
        '<?xml version="1.0"?><VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">'
        f'<RESOURCE type="results"><INFO name="QUERY_STATUS" value="ERROR">{reason}</INFO></RESOURCE></VOTABLE>'
    ).encode()


@contextmanager
def running(handler: type[Handler], service: Service) -> Iterator[str]:
    """Run a stand-in; yields its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Running", (handler,), {"service": service}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        service.woken.set()
        server.shutdown()
        server.server_close()
