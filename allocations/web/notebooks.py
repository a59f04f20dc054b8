"""Renders executed notebooks as documents that load nothing and run nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bleach
import nbformat
from bleach.css_sanitizer import CSSSanitizer
from nbconvert import HTMLExporter
from traitlets.config import Config

from allocations.errors import InvalidInputError
from allocations.web.notebook_contents import reduced

TEMPLATES = Path(__file__).parent / "templates"
SHOWN_BYTES_MAX = 30_000_000
# What a notebook prints may be anybody's HTML: no origin, no scripts, nothing loaded. Only our own page frames it.
NOTEBOOK_POLICY = "; ".join(
    [
        "sandbox",
        "default-src 'none'",
        "img-src data:",
        "style-src 'unsafe-inline'",
        "font-src data:",
        "frame-ancestors 'self'",
    ]
)


# The second line behind the policy: the tags of text and tables, and no address but a link's.
# fmt: off
TAGS = frozenset((
    "a", "abbr", "b", "blockquote", "br", "caption", "code", "col", "colgroup", "dd", "del", "details", "div", "dl",
    "dt", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "img", "ins", "kbd", "li", "ol", "p", "pre", "q", "s",
    "samp", "small", "span", "strong", "sub", "summary", "sup", "table", "tbody", "td", "tfoot", "th", "thead", "tr",
    "tt", "u", "ul", "var",
))
ATTRIBUTES = frozenset((
    "align", "alt", "class", "colspan", "height", "id", "rowspan", "scope", "start", "style", "title", "width",
))
# fmt: on
# What the readers of notebooks raise for what is none, or is nested without end.
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError, nbformat.ValidationError)
LINKS = ("http://", "https://", "mailto:", "#")


def to_html(content: bytes, name: str) -> str:
    """Return a notebook as an HTML document without scripts; InvalidInputError when it cannot be shown."""
    remedy = "Download it instead."
    if len(content) > SHOWN_BYTES_MAX:
        raise InvalidInputError(f"The notebook is larger than {SHOWN_BYTES_MAX // 1_000_000} MB.", remedy)
    resources: dict[str, Any] = {"metadata": {"name": name.removesuffix(".ipynb")}}
    try:
        notebook = nbformat.reads(content.decode(), as_version=4)  # type: ignore[no-untyped-call]
        nbformat.validate(notebook)
        html, _ = _exporter().from_notebook_node(reduced(notebook), resources=resources)
    except UNREADABLE as error:
        raise InvalidInputError("The executed notebook is not complete or not valid.", remedy) from error
    # JSON can spell half of a surrogate pair, UTF-8 cannot.
    return str(html).encode("utf-8", "replace").decode()


def _exporter() -> HTMLExporter:
    config = Config()
    config.TemplateExporter.extra_template_basedirs = [str(TEMPLATES)]
    return HTMLExporter(  # type: ignore[no-untyped-call]
        config=config,
        template_name="executed_notebook",
        sanitize_html=True,
        filters={"clean_html": _clean},
    )


def _clean(html: object) -> str:
    cleaned: str = bleach.clean(
        str(html),
        tags=TAGS,
        attributes=_is_allowed,
        protocols={"http", "https", "mailto", "data"},
        strip=True,
        css_sanitizer=CSSSanitizer(),
    )
    return cleaned


def _is_allowed(tag: str, name: str, value: str) -> bool:
    if name == "src":
        return tag == "img" and value.startswith("data:image/")
    return value.startswith(LINKS) if name == "href" else name in ATTRIBUTES
