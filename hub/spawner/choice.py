"""Turn what a browser, a link or the REST API sent as user options into a choice, trusting none of it.

Only shape is checked here. Whether the person may have the choice is the allocations service's to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FIELDS = ("allocation", "size", "image")
# Between allocation and size in the value of one radio button; neither name can contain it.
SEPARATOR = "::"
# As long as a reference to a container image may be.
LONGEST_NAME = 255


class InvalidChoiceError(ValueError):
    """The options do not have the shape of a choice; the message is a sentence for the person."""


@dataclass(frozen=True)
class Choice:
    """The names that were asked for; None leaves the decision to the service's default."""

    allocation: str | None = None
    size: str | None = None
    image: str | None = None

    @property
    def complete(self) -> bool:
        """True when allocation and size are both named."""
        return self.allocation is not None and self.size is not None


def to_choice(user_options: object) -> Choice:
    """Check the shape of raw user options; raises InvalidChoiceError with a sentence that names the field."""
    if user_options is None:
        return Choice()
    if not isinstance(user_options, dict):
        msg = "The options must be an object with the fields allocation, size and image."
        raise InvalidChoiceError(msg)
    unknown = [key for key in user_options if key not in FIELDS]
    if unknown:
        msg = f"Unknown option {_shown(unknown[0])}: the options are allocation, size and image."
        raise InvalidChoiceError(msg)
    choice = Choice(**{field: _to_name(field, user_options.get(field)) for field in FIELDS})
    if (choice.allocation is None) != (choice.size is None):
        missing = "size" if choice.size is None else "allocation"
        msg = f"Name the {missing} too, or leave both allocation and size out to get your default."
        raise InvalidChoiceError(msg)
    return choice


def from_form(form: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Read the start page's form, or a link's query, into user options without the empty fields."""
    options = {field: str(form[field][0]) for field in FIELDS if form.get(field) and form[field][0]}
    own = str(form["custom_image"][0]).strip() if form.get("custom_image") else ""
    if own:
        options["image"] = own
    if form.get("choice"):
        allocation, _, size = str(form["choice"][0]).rpartition(SEPARATOR)
        options |= {"allocation": allocation, "size": size}
    return options


def _to_name(field: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        msg = f"The option {field} must be text."
        raise InvalidChoiceError(msg)
    if not value or len(value) > LONGEST_NAME or not value.isprintable():
        msg = f"The option {field} must be a name of 1 to {LONGEST_NAME} printable characters."
        raise InvalidChoiceError(msg)
    return value


def _shown(value: object) -> str:
    """The start of a value as it may be shown in a message."""
    return ascii(str(value)[:40])
