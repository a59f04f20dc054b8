"""The policy page shows every number by which the platform decides: change any, and the page changes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allocations.policy.models import Policy
    from tests.web.conftest import Site

PARTS = ("tiers", "sizes", "prices", "leases", "runs", "agreement")


def without_effect(part: dict[str, Any]) -> set[str]:
    """What a tier or budget says that another of its rules keeps from counting."""
    unused = {"panel_reviewers_min"} if part.get("review") != "panel" else set()
    unused |= {"overcommit_ratio_percent"} if not part.get("sub_allocations") else set()
    return unused | ({"instalments"} if len(part.get("instalments", ())) == 1 else set())


def changed(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield each number's path, and the whole with this one number changed."""
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int):
        yield ".".join(path), value + 3_600_000
    elif isinstance(value, dict):
        for name in value.keys() - without_effect(value):
            one = value[name]
            for where, other in changed(one, (*path, name)):
                yield where, value | {name: other}
    elif isinstance(value, list | tuple):
        for number, one in enumerate(value):
            for where, other in changed(one, (*path, str(number))):
                yield where, [*value[:number], other, *value[number + 1 :]]


def test_every_number_of_the_policy_is_on_the_page(site: Site) -> None:
    browser, services = site.browser("bob"), site.services
    before, written = browser.get("/policy").text, services.policy.model_dump()
    unseen, seen = [], 0
    for part in PARTS:
        for where, other in changed(written[part], (part,)):
            # Not validated: that a number breaks another rule does not matter here.
            policy = _built(services.policy, part, other)
            site.app.state.services = replace(services, policy=policy)
            if browser.get("/policy").text == before:
                unseen.append(where)
            seen += 1
    assert unseen == []
    assert seen > 50


def _built(policy: Policy, part: str, value: Any) -> Policy:
    """Return the policy with a part replaced by unvalidated values."""
    return policy.model_copy(update={part: _like(getattr(policy, part), value)})


def _like(model: Any, value: Any) -> Any:
    if hasattr(model, "model_copy"):
        return model.model_copy(update={name: _like(getattr(model, name), one) for name, one in value.items()})
    if isinstance(model, tuple):
        return tuple(_like(one, other) for one, other in zip(model, value, strict=True))
    return value
