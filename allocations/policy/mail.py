"""How a mail looks: an HTML and a text template of the policy, checked before they are used."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from html.parser import HTMLParser
from typing import TYPE_CHECKING

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict, model_validator

if TYPE_CHECKING:
    from jinja2 import Template

HTML_FILE = "mail.html"
TEXT_FILE = "mail.txt"

FILTERS = frozenset(
    {"capitalize", "default", "e", "escape", "first", "indent", "last", "length", "lower", "replace", "trim"}
    | {"upper", "wordwrap"}
)
# Templates neither load others nor write what people wrote unescaped.
_REFUSED: dict[type[nodes.Node], str] = {
    nodes.Include: "loads another template",
    nodes.Import: "loads another template",
    nodes.FromImport: "loads another template",
    nodes.Extends: "loads another template",
    nodes.EvalContextModifier: "turns escaping off",
    nodes.CallBlock: "calls",
    nodes.Call: "calls",
}
_ACTIVE_TAGS = frozenset({"base", "embed", "form", "iframe", "link", "object", "script", "svg"})
_LOADING_ATTRIBUTES = frozenset({"action", "background", "data", "poster", "src", "srcset"})
_STYLE_LOADS = re.compile(r"url\s*\(|@import|image-set", re.IGNORECASE)
_LOOP_ATTRIBUTES = frozenset({"first", "index", "index0", "last", "length", "revindex"})


@dataclass(frozen=True, slots=True)
class MailNotice:
    """A notice as a template sees it; `url` and the words of that link, `link`, are empty where there is no page."""

    title: str
    text: str
    url: str
    link: str


@dataclass(frozen=True, slots=True)
class MailContent:
    """What a template may say. Addresses are empty where the platform does not know its own, or they do not apply.

    `required`: some of the notices are of a kind whose mail nobody can turn off.
    """

    subject: str
    person: str
    opening: str
    closing: str
    notices: tuple[MailNotice, ...]
    required: bool
    home_url: str
    settings_url: str
    unsubscribe_url: str


VARIABLES = frozenset(MailContent.__slots__)
ATTRIBUTES = frozenset(MailNotice.__slots__) | _LOOP_ATTRIBUTES


class MailTemplates(BaseModel):
    """The two forms of every mail, of one content: HTML, and plain text for readers without it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    html: str
    text: str

    @model_validator(mode="after")
    def _can_be_rendered(self) -> MailTemplates:
        for name, source in ((HTML_FILE, self.html), (TEXT_FILE, self.text)):
            _require_known(name, source)
            for sample in _samples():
                try:
                    rendered = _template(source, name == HTML_FILE).render(_variables(sample))
                except (TemplateError, TypeError, ValueError) as error:
                    raise ValueError(f"{name}: {error}") from error
                if name == HTML_FILE:
                    _require_self_contained(rendered)
        return self

    def render_html(self, content: MailContent) -> str:
        """Return a mail's HTML, in which everything that people wrote is escaped."""
        return _template(self.html, True).render(_variables(content)).strip() + "\n"  # the cache takes no names

    def render_text(self, content: MailContent) -> str:
        """Return a mail's text, with one empty line at most between two parts."""
        rendered = _template(self.text, False).render(_variables(content))  # as above
        return re.sub(r"\n{3,}", "\n\n", rendered).strip() + "\n"


def _variables(content: MailContent) -> dict[str, object]:
    return {name: getattr(content, name) for name in MailContent.__slots__}


@cache
def _environment(autoescape: bool) -> ImmutableSandboxedEnvironment:  # as above
    environment = ImmutableSandboxedEnvironment(
        autoescape=autoescape, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.clear()
    environment.filters = {name: environment.filters[name] for name in FILTERS}
    return environment


@cache
def _template(source: str, autoescape: bool) -> Template:  # as above
    return _environment(autoescape).from_string(source)


def _require_known(name: str, source: str) -> None:
    """Raise ValueError unless a template says known things only, in whichever of its branches."""
    try:
        tree = _environment(name == HTML_FILE).parse(source)
        for node in tree.find_all(nodes.Node):
            _require_known_node(f"{name}, line {node.lineno}", node)
        unknown = sorted(meta.find_undeclared_variables(tree) - VARIABLES)
    except TemplateSyntaxError as error:
        raise ValueError(f"{name}, line {error.lineno}: {error.message}") from error
    if unknown:
        raise ValueError(f"{name}: unknown variable {unknown[0]}: it may be one of {', '.join(sorted(VARIABLES))}")


def _require_known_node(where: str, node: nodes.Node) -> None:
    refused = next((deed for kind, deed in _REFUSED.items() if isinstance(node, kind)), None)
    if refused is not None:
        raise ValueError(f"{where}: a mail's template {refused}, which it may not")
    if isinstance(node, nodes.Getattr) and node.attr not in ATTRIBUTES:
        raise ValueError(f"{where}: unknown attribute {node.attr}: it may be {', '.join(sorted(ATTRIBUTES))}")
    if isinstance(node, nodes.Getitem) and not _is_number(node.arg):
        raise ValueError(f"{where}: only a number may stand in brackets")
    if isinstance(node, nodes.Filter) and node.name not in FILTERS:
        raise ValueError(f"{where}: unknown filter {node.name}: it may be one of {', '.join(sorted(FILTERS))}")


def _is_number(argument: nodes.Node) -> bool:
    return isinstance(argument, nodes.Slice) or (isinstance(argument, nodes.Const) and isinstance(argument.value, int))


def _samples() -> list[MailContent]:
    """Return the least and the most that a mail can say."""
    notice = MailNotice("Title", "Text", "https://platform.example/page", "Open the page")
    full = MailContent(
        subject="Title (and 1 more)",
        person="ann",
        opening="Dear ann,",
        closing="Goodbye.",
        notices=(notice, notice),
        required=True,
        home_url="https://platform.example/",
        settings_url="https://platform.example/settings",
        unsubscribe_url="https://platform.example/unsubscribe",
    )
    least = replace(full, opening="", closing="", notices=(MailNotice("Title", "Text", "", ""),), required=False)
    least = replace(least, home_url="", settings_url="", unsubscribe_url="")
    return [least, full]


class _Looking(HTMLParser):
    """Finds what a mail reader would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_style = tag == "style"
        if tag in _ACTIVE_TAGS:
            self.faults.append(f"<{tag}>")
        for name, value in attrs:
            loads = name in _LOADING_ATTRIBUTES and not (value or "").startswith("data:")
            if loads or name.startswith("on") or (name == "style" and _STYLE_LOADS.search(value or "")):
                self.faults.append(f"{name} of <{tag}>")

    def handle_endtag(self, _tag: str) -> None:
        self._in_style = False

    def handle_data(self, data: str) -> None:
        if self._in_style and _STYLE_LOADS.search(data):
            self.faults.append("<style>")


def _require_self_contained(html: str) -> None:
    """Raise ValueError when a mail would load something from elsewhere, which tells that it is read, or run something.

    Links are what a reader follows by will; a picture may stand within the mail as a `data:` address.
    """
    looking = _Looking()
    looking.feed(html)
    looking.close()
    if looking.faults:
        raise ValueError(f"{HTML_FILE}: {looking.faults[0]} loads or runs something; a mail must stand alone")
