"""The start page offers only what can be had, and says why the rest can't, in text that can't be forged."""

from __future__ import annotations

import pytest

from hub.client import StartOptions
from hub.spawner.choice import Choice
from hub.spawner.pages import refusal, render_start_form, to_credits, to_hours
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
    assert '<option value="gpu" selected>' in html
    assert '<option value="lab">' in html


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


def test_a_code_is_safe_as_a_reason_phrase():
    assert refusal("No.", code="a b\r\nSet-Cookie: x", status=403).reason == "a_b__Set_Cookie__x"
