"""The start page offers only what can be had, and says why the rest can't, in text that can't be forged."""

from __future__ import annotations

import pytest

from hub.client import AllocationDenied, StartOptions
from hub.spawner.choice import Choice
from hub.spawner.pages import refusal, render_start_form, to_credits, to_hours, to_refusal
from tests.hub.fake_allocations import allocation, size, start_options


def render(chosen=None, **changes):
    options = StartOptions.model_validate(start_options(**changes))
    return " ".join(render_start_form(options, chosen or Choice()).split())


def test_each_size_shows_what_it_gives_costs_and_how_long_the_balance_lasts():
    html = render()
    assert 'value="a1::small"' in html
    assert "2 cores, 8 GiB memory" in html
    assert "0.12 credits an hour" in html
    assert "250 h in this balance" in html


def test_what_can_not_be_had_is_disabled_with_its_reason_in_sight():
    html = render()
    large = html[html.index('value="a1::large"') :]
    assert large[: large.index(">")].endswith("disabled")
    assert "Your tier ends at 2 cores." in large


def test_the_default_is_marked_unless_an_earlier_choice_can_still_be_had():
    both = [allocation(sizes=[size(), size("medium")])]
    assert "checked" in mark(render(allocations=both), "a1::small")
    assert "checked" in mark(render(Choice("a1", "medium"), allocations=both), "a1::medium")
    assert "checked" in mark(render(Choice("gone", "medium"), allocations=both), "a1::small")


def mark(html, value):
    start = html.index(f'value="{value}"')
    return html[start : html.index(">", start)]


def test_without_the_agreement_there_is_a_link_and_no_start():
    agreement = {"version": "2", "title": "Terms", "accepted": False, "url": "/services/allocations/agreement"}
    html = render(agreement=agreement)
    assert 'href="/services/allocations/agreement"' in html
    assert 'data-startable="no"' in html
    assert html.count("disabled") == html.count('type="radio"')


def test_without_an_allocation_the_page_says_what_to_do():
    html = render(allocations=[], default=None)
    assert "You have no allocation yet." in html
    assert 'data-startable="no"' in html


def test_names_and_reasons_are_escaped():
    evil = '"><script>alert(1)</script> data-startable="yes"'
    html = render(allocations=[allocation(name=evil, usable=False, reason=evil, sizes=[])], default=None)
    assert "<script>" not in html
    assert 'data-startable="yes"' not in html


def test_several_images_make_a_choice_with_the_default_first_chosen():
    images = [{"name": "lab", "title": "Lab"}, {"name": "gpu", "title": "GPU", "default": True}]
    html = render(images=images)
    assert '<option value="gpu" selected data-title="GPU">' in html
    assert '<option value="lab" data-title="Lab">' in html


@pytest.mark.parametrize(
    ("microcredits", "text"),
    [(0, "0.00"), (120_000, "0.12"), (1_234_500_000, "1,234.50"), (1_500, "0.0015"), (12, "0.000012")],
)
def test_credits_show_two_decimals_or_two_digits_of_a_small_amount(microcredits, text):
    assert to_credits(microcredits) == text


@pytest.mark.parametrize(
    ("hours", "text"), [(0.0, "0 h 00 min"), (1.999, "1 h 59 min"), (10.9, "10 h"), (2500.0, "2,500 h")]
)
def test_hours_never_promise_more_than_there_is(hours, text):
    assert to_hours(hours) == text


@pytest.mark.parametrize(("code", "leads"), [("at_once_limit", True), ("agreement_required", False)])
def test_a_denial_for_a_limit_leads_to_what_limits_and_no_other_does(code, leads):
    denial = AllocationDenied(code=code, detail="No.", remedy="Do.", remedy_url=None, status=403)
    html = to_refusal(denial).jupyterhub_html_message
    assert ('href="/services/allocations/quota"' in html) is leads


def test_each_allocation_leads_to_its_limits():
    assert 'href="/services/allocations/quota#a1"' in render()


def test_a_code_is_safe_as_a_reason_phrase():
    assert refusal("No.", code="a b\r\nSet-Cookie: x", status=403).reason == "a_b__Set_Cookie__x"


def a_home(state, **changes):
    return {
        "state": state,
        "full": False,
        "used_bytes": 11 * 10**9 + 1,
        "limit_bytes": 10**10,
        "locks_at": None,
    } | changes


def rescue(**changes):
    return size("rescue", microcredits_per_hour=0, hours_available=1.0, **changes)


def test_a_locked_home_has_a_rescue_server_chosen_and_in_sight():
    locked = "Your home has been over its limit for too long and is locked."
    options = [allocation(usable=False, reason=locked, sizes=[size(usable=False, reason=locked)], rescue=rescue())]
    html = render(allocations=options, default=None, home=a_home("locked", full=True))
    assert "Your home is locked: it holds 11.1 GB of 10 GB." in html
    assert "checked" in mark(html, "a1::rescue")
    assert "disabled" in mark(html, "a1::small")
    assert "<details open>" in html
    assert "free of charge" in html
    assert 'data-startable="yes"' in html


def test_a_full_home_has_it_chosen_and_ordinary_servers_to_choose():
    home = a_home("over limit", full=True, locks_at="2027-01-29T08:00:00.000Z")
    html = render(Choice("a1", "small"), allocations=[allocation(rescue=rescue())], home=home)
    assert "Your home is full" in html
    assert "It is locked on" in html
    assert "29 Jan 2027" in html
    assert "checked" in mark(html, "a1::rescue")
    assert "disabled" not in mark(html, "a1::small")


def test_others_find_it_folded_and_never_chosen_for_them():
    html = render(Choice("a1", "rescue"), allocations=[allocation(rescue=rescue())], home=a_home("ok"))
    assert "<details>" in html
    assert "checked" in mark(html, "a1::small")
    assert "checked" not in mark(html, "a1::rescue")


def test_a_locked_allocation_opens_its_own_and_no_other():
    options = [allocation(rescue=rescue()), allocation("a2", usable=False, reason="Locked.", rescue=rescue())]
    html = render(allocations=options)
    assert html.count("<details open>") == html.count("<details>") == 1
    assert html.index("<details>") < html.index("<details open>")


def test_without_the_agreement_there_is_no_rescue_either():
    agreement = {"version": "2", "title": "Terms", "accepted": False, "url": "/services/allocations/agreement"}
    html = render(agreement=agreement, allocations=[allocation(rescue=rescue())], home=a_home("locked", full=True))
    assert "disabled" in mark(html, "a1::rescue")
    assert 'data-startable="no"' in html


def version(choice, title, **more):
    return {"choice": choice, "recorded": more.pop("recorded", choice), "title": title, "channel": "pinned"} | more


BASE = {
    "name": "base",
    "title": "Base",
    "description": "Astronomy",
    "default": True,
    "versions": [
        version("base", "Base 2", recorded="base:2", channel="recommended"),
        version("base:w9", "Base w9", channel="weekly", released="2036-01-30", ends="2036-03-01"),
        version("base:1", "Base 1", ends="2036-02-11", ends_soon=True),
    ],
}
GPU = {"name": "gpu", "title": "GPU lab", "default_for": ["large"]}
CUSTOM = {"registries": ["registry.example.org/team"]}


def test_versions_stand_in_groups_with_the_recommended_one_chosen():
    html = render(images=[BASE])
    places = [html.index(text) for text in ('label="Recommended"', 'value="base"', 'label="Weekly"', 'label="Pinned"')]
    assert places == sorted(places)
    assert "selected" in mark(html, "base")
    assert "Base w9, of 30 Jan 2036, until 1 Mar 2036" in html
    assert 'href="/services/allocations/software"' in html


@pytest.mark.parametrize("asked", ["base", "base:2"])
def test_who_had_the_recommended_version_gets_what_is_recommended_now(asked):
    assert "selected" in mark(render(Choice(image=asked), images=[BASE]), "base")


def test_a_version_that_ends_soon_says_so_where_it_is_chosen_and_what_is_recommended():
    html = render(Choice(image="base:1"), images=[BASE])
    assert "selected" in mark(html, "base:1")
    assert "Base 1, which is chosen, ends on 11 Feb 2036: from then on it cannot be started." in html
    assert "Recommended now: Base 2." in html
    assert "which is chosen" not in render(images=[BASE])


def test_a_version_that_is_gone_is_named_with_what_takes_its_place():
    html = render(Choice(image="base:0"), images=[BASE])
    assert "base:0, which you had last, cannot be started any more: Base 2 is chosen in its place." in html
    assert "selected" in mark(html, "base")


def test_a_size_with_an_image_of_its_own_leaves_the_choice_to_the_service():
    html = render(images=[BASE, GPU])
    assert "selected" in mark(html, "")
    assert "As recommended: Base 2 (with Large: GPU lab)" in html
    assert "selected" not in mark(html, "base")


def test_an_image_of_ones_own_is_asked_for_only_where_it_may_be_started():
    assert "custom_image" not in render(images=[BASE])
    mine = [allocation(name="Deep <b>", custom_images=True)]
    html = render(images=[BASE], custom_images=CUSTOM, allocations=mine)
    assert 'name="custom_image" value=""' in html
    assert "on Deep &lt;b&gt;. It has to come from registry.example.org/team" in html
    own = "registry.example.org/team/lab:1"
    again = render(Choice(image=own), images=[BASE], custom_images=CUSTOM, allocations=mine)
    assert f'value="{own}"' in again
    assert "cannot be started any more" not in again


def test_a_version_has_no_way_into_the_page_as_markup():
    html = render(Choice(image='"><b>x'), images=[BASE | {"versions": [version('"><i>', "<i>")]}, GPU])
    assert "<i>" not in html
    assert "<b>x" not in html
