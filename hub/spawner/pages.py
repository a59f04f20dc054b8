"""The HTML that the spawner gives to JupyterHub: the start page's form, and refusals of a start.

Everything is rendered by Jinja2 with autoescape; names and reasons come from people and from the service.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from jupyterhub.spawner import SpawnException

from hub.client import AllocationDenied, AllocationsUnavailableError
from hub.spawner.choice import SEPARATOR, Choice

if TYPE_CHECKING:
    from hub.client import AllocationOption, StartOptions

MICROCREDITS_PER_CREDIT = 1_000_000
TRY_AGAIN = (
    "The allocations service does not answer, so no server can be started. Try again in a minute; nothing was charged."
)
# Where the service explains a person's limits, and the refusals that are for one of them.
QUOTA_URL = "/services/allocations/quota"
# Where the service says what is in each image.
SOFTWARE_URL = "/services/allocations/software"
LIMIT_CODES = frozenset(
    {"size_not_allowed", "at_once_limit", "insufficient_balance", "allocation_not_active", "no_usable_choice"}
)
UNAVAILABLE_CODE = "allocations_unavailable"


def to_credits(microcredits: int) -> str:
    """Credits for people: two decimals, or as many as it takes to show two digits of a small amount."""
    amount = Decimal(microcredits) / MICROCREDITS_PER_CREDIT
    decimals = 2 if not amount else max(2, 1 - amount.adjusted())
    return f"{amount:,.{decimals}f}"


def to_plain(number: float) -> str:
    """A count without a needless fraction: 2, 0.5."""
    return f"{number:g}"


def to_hours(hours: float) -> str:
    """How long a balance lasts, to a sensible grain; rounded down so that it never promises more."""
    if hours >= 10:  # noqa: PLR2004 - from ten hours on a fraction says nothing
        return f"{int(hours):,} h"
    whole_minutes = int(hours * 60)
    return f"{whole_minutes // 60} h {whole_minutes % 60:02d} min"


def to_gigabytes(count_bytes: int) -> str:
    """Bytes in GB of 10^9, rounded up to a tenth, so that what is over a limit reads so."""
    return f"{-(-count_bytes * 10 // 10**9) / 10:,.10g} GB"


def to_duration(seconds: float) -> str:
    """A duration by its two largest units, as on the service's pages: `45 s`, `12 min`, `1 h 5 min`, `2 d 3 h`."""
    whole = max(0, int(seconds))
    for size, unit, smaller_size, smaller_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if whole >= size:
            rest = whole % size // smaller_size
            return f"{whole // size:,} {unit}" + (f" {rest} {smaller_unit}" if rest else "")
    return f"{whole // 60} min" if whole >= 60 else f"{whole} s"  # noqa: PLR2004 - seconds of a minute


_environment = Environment(
    loader=PackageLoader("hub", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters |= {"credits": to_credits, "plain": to_plain, "hours": to_hours, "gigabytes": to_gigabytes}


def render_start_form(options: StartOptions, chosen: Choice) -> str:
    """The start page's form; `chosen` (the person's last choice) is marked when it can still be had."""
    usable = {
        (allocation.id, size.name)
        for allocation in options.allocations
        for size in allocation.sizes
        if options.agreement.accepted and allocation.usable and size.usable
    }
    rescues = [
        (allocation.id, allocation.rescue.name)
        for allocation in options.allocations
        if options.agreement.accepted and allocation.rescue is not None and allocation.rescue.usable
    ]
    marked: tuple[str | None, str | None] = (chosen.allocation, chosen.size)
    if marked not in usable:
        default = options.default
        marked = (default.allocation, default.size) if default else (None, None)
    if rescues and options.home is not None and (options.home.is_locked or options.home.full):
        marked = rescues[0]
    return _environment.get_template("start_form.html").render(
        options=options,
        usable=usable | set(rescues),
        is_rescue_wanted=lambda allocation: is_rescue_wanted(options, allocation),
        marked=marked,
        asked_image=chosen.image,
        separator=SEPARATOR,
        quota_url=QUOTA_URL,
        software_url=SOFTWARE_URL,
    )


def is_rescue_wanted(options: StartOptions, allocation: AllocationOption) -> bool:
    """Whether the home is full or locked, or nothing but a rescue server starts on the allocation."""
    home = options.home
    if home is not None and (home.is_locked or home.full):
        return True
    return allocation.rescue is not None and allocation.rescue.usable and not allocation.usable


def render_unavailable_form() -> str:
    """What stands in the form's place while the allocations service does not answer."""
    return _environment.get_template("start_unavailable.html").render(message=TRY_AGAIN)


def to_refusal(error: AllocationDenied | AllocationsUnavailableError) -> SpawnException:
    """A failed call as JupyterHub's own kind of refusal, which never counts as a failed start."""
    if isinstance(error, AllocationsUnavailableError):
        return refusal(TRY_AGAIN, code=UNAVAILABLE_CODE, status=503)
    text = " ".join(part for part in (error.detail, error.remedy) if part)
    html = _environment.get_template("denial.html").render(
        denial=error, link=_safe_link(error.remedy_url), is_limit=error.code in LIMIT_CODES, quota_url=QUOTA_URL
    )
    return refusal(text, code=error.code, status=403, html=html)


def refusal(text: str, *, code: str, status: int, html: str = "") -> SpawnException:
    """A SpawnException with a code that is safe as a metric's label and as the reason phrase of HTTP."""
    reason = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in code)[:60] or "denied"
    exception = SpawnException(text, reason=reason, message_html=html, status_code=status)
    # JupyterHub's own pages read these two; without them the start page shows the exception's repr.
    exception.jupyterhub_message = text
    exception.jupyterhub_html_message = html or None
    return exception


def _safe_link(url: str | None) -> str | None:
    """Only web addresses and paths on this site become links."""
    if url is None:
        return None
    on_this_site = url.startswith("/") and not url.startswith(("//", "/\\"))
    return url if on_this_site or url.startswith(("https://", "http://")) else None


def no_start_reason(options: StartOptions) -> AllocationDenied:
    """Why there is no default choice: the first cause that the person can act on."""
    if not options.agreement.accepted:
        return AllocationDenied(
            code="agreement_required",
            detail=f"The user agreement “{options.agreement.title}” has not been accepted yet.",
            remedy="Read and accept it, then start your server.",
            remedy_url=options.agreement.url,
            status=403,
        )
    if not options.allocations:
        return AllocationDenied(
            code="no_allocation",
            detail="You are not a member of any allocation.",
            remedy="Open your home page to receive or request one.",
            remedy_url=None,
            status=403,
        )
    reasons = [allocation.reason for allocation in options.allocations if not allocation.usable]
    reasons += [size.reason for allocation in options.allocations for size in allocation.sizes if not size.usable]
    first = next((reason for reason in reasons if reason), "None of the sizes on your allocations can be started now.")
    return AllocationDenied(
        code="no_usable_choice",
        detail=first,
        remedy="The start page shows what can be had.",
        remedy_url=None,
        status=403,
    )
