"""Goes wherever a person can go in a browser: follows every link, looks at every page, sends every form."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qsl, urljoin, urlsplit

from fastapi import FastAPI
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError
from playwright.sync_api import ViewportSize

from allocations.app import PREFIX
from allocations.web import pages
from tests.e2e.conftest import new_context
from tests.e2e.platform import ROOT
from tests.web.test_web_session import routes, scopes_of

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Response

HOME = f"{PREFIX}/"
WIDE: ViewportSize = {"width": 1280, "height": 900}
NARROW: ViewportSize = {"width": 360, "height": 740}
# How pages are looked at and kept as pictures; by axe in the last two, in which all colours and widths are.
LOOKS: list[tuple[str, Literal["light", "dark"], ViewportSize]] = [
    ("dark", "dark", WIDE),
    ("narrow", "dark", NARROW),
    ("light", "light", WIDE),
]
# Of addresses that differ in an id or a value only, as many are opened by each person.
ALIKE_MAX = 2
LOADED_AGAIN = "Failed to load resource"
# JupyterHub's own pages, whose faults are among the known limits, and what people's notebooks wrote.
NOT_OURS = re.compile(r"^/hub/(token|admin)$|/(notebook|log)$")
# Ways out, other people's ground, and what is not a page.
ELSEWHERE = re.compile(r"^/hub/logout|^/user/|/static/|^/hub/api/|/api/openapi\.json")
OUTLINE = "[...document.querySelectorAll('main *')].map(one => one.tagName + one.className).join()"
# On JupyterHub's page of administration, those that are shown: the rest is hidden from who may not follow it.
LINKS = """[...document.querySelectorAll('a[href]')]
    .filter(one => !one.closest('#react-admin-hook') || one.checkVisibility()).map(one => one.href)"""
FORMS = """[...document.forms].map((form, index) => ({
    index, method: form.method, action: form.getAttribute('action') || '', id: form.id,
    names: [...new Set([...form.elements].map(one => one.name).filter(Boolean))].sort(),
    buttons: [...form.querySelectorAll('button:not([type=button])')].map(one => one.value)}))"""
SEND = """([index, button]) => {
    const form = document.forms[index];
    form.noValidate = true;
    form.requestSubmit(form.querySelectorAll('button:not([type=button])')[button]);
}"""
AXE = "axe.run().then(found => found.violations.map(one => [one.id, one.nodes[0].html]))"


@cache
def page_routes() -> dict[str, tuple[re.Pattern[str], frozenset[str], frozenset[str]]]:
    """The routes of the service's pages: their paths by pattern, methods and scopes, in the order of matching."""
    app = FastAPI()
    pages.install(app, PREFIX)
    found: dict[str, tuple[re.Pattern[str], frozenset[str], frozenset[str]]] = {}
    for route in routes(app.routes):
        if route.path.startswith(PREFIX):
            pattern = re.compile(re.sub(r"\\{[^}]*\\}", "[^/]+", re.escape(route.path)) + "$")
            for method in route.methods:
                found[f"{method} {route.path}"] = (pattern, frozenset([method]), frozenset(scopes_of(route.dependant)))
    return found


def route_of(method: str, path: str) -> str:
    """The route that an address belongs to; of the hub's pages the path itself, without names of people."""
    for name, (pattern, methods, _scopes) in page_routes().items():
        if method in methods and pattern.match(path):
            return name
    return method + " " + re.sub(r"^(/hub/[^/]+)/.*", r"\1/…", path)


@dataclass(frozen=True, slots=True)
class Form:
    """A form where it was first seen: its place on the page, and which of its buttons."""

    page: str
    index: int
    button: int
    method: str
    action: str
    names: tuple[str, ...]
    value: str

    @property
    def kind(self) -> tuple[str, ...]:
        """What is alike: the route, the fields and the button."""
        return (route_of(self.method, urlsplit(self.action).path), self.value, *self.names)


@dataclass
class Crawl:
    """One person's way through the platform, and what was wrong on it."""

    name: str
    context: BrowserContext
    page: Page
    pictures: Path
    # Kinds of pages that somebody has looked at already, which need no second look.
    looked_at: set[tuple[str, str]]
    statuses: dict[str, int] = field(default_factory=dict)
    linked: set[str] = field(default_factory=set)
    forms: dict[tuple[str, ...], Form] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    _said: list[str] = field(default_factory=list)
    _alike: Counter[tuple[str, ...]] = field(default_factory=Counter)

    @property
    def url(self) -> str:
        return "{0.scheme}://{0.netloc}".format(urlsplit(self.page.url))

    def from_everywhere(self, *beginnings: str) -> None:
        """Follow every link from these pages on, and look at each kind of page."""
        waiting = [*beginnings]
        while waiting:
            address = waiting.pop(0)
            if (
                self._is_new(address)
                and self.visit(address)
                and urlsplit(self.page.url).path.startswith(("/hub", PREFIX))
            ):
                links = self._links()
                self.linked.update(links)
                waiting += links
                self._remember_forms()

    def _goto(self, address: str) -> Response | None:
        """Open a page; once more, where what went before went on to load and broke it off."""
        try:
            return self.page.goto(f"{self.url}{address}")
        except PlaywrightError as error:
            if "ERR_ABORTED" not in str(error) or "Download is starting" in str(error):
                raise
        self.page.wait_for_load_state()
        return self.page.goto(f"{self.url}{address}")

    def visit(self, address: str) -> bool:
        """Open a page and look at it; False when it is a file for downloading."""
        self._said.clear()
        try:
            response = self._goto(address)
        except PlaywrightError as error:
            if "Download is starting" not in str(error) and "ERR_ABORTED" not in str(error):
                raise
            self.statuses[address] = self.context.request.get(f"{self.url}{address}").status
            self._complain(address, self.statuses[address] == 200, f"downloads with {self.statuses[address]}")
            return False
        assert response is not None, address
        self.statuses[address] = response.status
        self._look(address, response.status)
        return True

    def send_forms(self, times: Counter[tuple[str, ...]]) -> None:
        """Send each kind of form as it stands on its page, unless two have: the service may refuse it, by a page."""
        for form in sorted(self.forms.values(), key=lambda form: _ends(form.action)):
            if times[form.kind] >= ALIKE_MAX:
                continue
            self._said.clear()
            response = self._goto(form.page)
            assert response is not None
            shown = [one for one in self._forms_shown() if one.kind == form.kind]
            if not shown:
                continue  # what was sent before has changed the page
            try:
                with self.page.expect_navigation(wait_until="load") as navigation:
                    self.page.evaluate(SEND, [shown[0].index, shown[0].button])
            except PlaywrightTimeoutError:
                self._complain(f"{form.method} {form.action} on {form.page}", False, "leads nowhere")
                continue
            status = navigation.value.status if navigation.value else 200
            times[form.kind] += 1
            self._look(f"{form.method} {form.action}", status)

    def status(self, address: str) -> int:
        """What the person gets at an address, without opening it in the browser; redirects are not followed."""
        return self.context.request.get(f"{self.url}{address}", max_redirects=0).status

    def heard(self, message: ConsoleMessage) -> None:
        """Keep what the browser's console shows as an error."""
        if message.type == "error":
            self._said.append(f"{message.text} ({message.location['url']})")

    def failed(self, error: object) -> None:
        """Keep what a page's script failed with."""
        self._said.append(str(error))

    def _complain(self, address: str, right: bool, fault: str) -> None:
        if not right:
            self.faults.append(f"{self.name} at {address}: {fault}")

    def _is_new(self, address: str) -> bool:
        parts = urlsplit(address)
        kind = (route_of("GET", parts.path), *sorted(name for name, _ in parse_qsl(parts.query)))
        if address in self.statuses or self._alike[kind] >= ALIKE_MAX:
            return False
        self._alike[kind] += 1
        return True

    def _links(self) -> list[str]:
        found = self.page.evaluate(LINKS)
        here = urlsplit(self.url).netloc
        parts = [urlsplit(link) for link in found]
        own = [part for part in parts if part.netloc == here and not part.fragment and not ELSEWHERE.search(part.path)]
        return list(dict.fromkeys(f"{part.path}{'?' if part.query else ''}{part.query}" for part in own))

    def _forms_shown(self) -> list[Form]:
        here = self.page.url.removeprefix(self.url)
        return [
            Form(
                page=here,
                index=form["index"],
                button=number,
                method=form["method"].upper(),
                action=urljoin(here, form["action"]) if form["action"] else here,
                names=tuple(form["names"]),
                value=value,
            )
            for form in self.page.evaluate(FORMS)
            # JupyterHub's script sends this one; and a server is started elsewhere, for it takes a while.
            if form["id"] not in {"request-token-form", "spawn_form"}
            for number, value in enumerate(form["buttons"])
        ]

    def _remember_forms(self) -> None:
        for form in self._forms_shown():
            # What the hub's page of tokens asks for, a script asks of the hub's API.
            if not form.action.endswith(("/sign-out", "/hub/token")):
                self.forms.setdefault(form.kind, form)

    def _look(self, address: str, status: int) -> None:
        """Say what is wrong with the page that is shown, in the light and wide, in the dark and narrow."""
        self._complain(address, status < 500, f"fails with {status}")
        said = [one for one in self._said if not (status >= 400 and LOADED_AGAIN in one and self.page.url in one)]
        self._complain(address, not said, f"the console says {said}")
        shape = (route_of("GET", urlsplit(self.page.url).path), str(self.page.evaluate(OUTLINE)))
        if shape in self.looked_at:
            return
        self.looked_at.add(shape)
        title = re.sub(r"\W+", "-", f"{len(self.looked_at):03d} {shape[0].removeprefix('GET ').removeprefix(PREFIX)}")
        ours = not NOT_OURS.search(urlsplit(self.page.url).path)
        for form, scheme, size in LOOKS:
            self.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            self.page.set_viewport_size(size)
            self.page.screenshot(path=self.pictures / f"{title}-{form}.png", full_page=True)
            if form == "dark" or not ours:
                continue
            wide = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            self._complain(address, wide <= 0, f"scrolls sideways by {wide} at {size['width']}")
            self.page.evaluate(_axe())
            found = self.page.evaluate(AXE)
            self._complain(address, not found, f"axe finds {found} ({form})")


def _ends(action: str) -> bool:
    """Whether a form ends what other forms need."""
    return action.endswith(
        ("/leave", "/close", "/remove", "/withdraw", "/state", "/end", "/cancel", "/move", "/read-all")
    )


@cache
def _axe() -> str:
    return (ROOT / "node_modules/axe-core/axe.min.js").read_text()


def open_browser_as(
    browser: Browser, url: str, name: str, password: str | None, pictures: Path, looked_at: set[tuple[str, str]]
) -> Crawl:
    """A browser of somebody who has just signed in, or of nobody."""
    context = new_context(browser, base_url=url, viewport=WIDE, color_scheme="light", reduced_motion="reduce")
    page = context.new_page()
    pictures.mkdir(parents=True)
    crawl = Crawl(name, context, page, pictures, looked_at)
    page.on("console", crawl.heard)
    page.on("pageerror", crawl.failed)
    page.goto("/hub/login")
    if password is not None:
        page.get_by_label("User name").fill(name)
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(re.compile(re.escape(HOME)))
    return crawl
