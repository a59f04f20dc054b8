"""User options are raw input: only well-formed names pass, and whether they may be had is the service's to say."""

import pytest

from hub.spawner.choice import Choice, InvalidChoiceError, from_form, to_choice


@pytest.mark.parametrize("nothing", [None, {}, {"allocation": None, "size": None, "image": None}])
def test_no_options_leave_the_choice_to_the_service(nothing):
    assert to_choice(nothing) == Choice()


@pytest.mark.parametrize(
    "forged",
    [
        [],
        "small",
        {"allocation": ["a1"], "size": ["small"]},
        {"allocation": {"$ne": 1}, "size": "small"},
        {"allocation": 7, "size": True},
        {"allocation": "a1"},
        {"size": "small"},
        {"allocation": "", "size": "small"},
        {"allocation": "a1", "size": "s" * 256},
        {"allocation": "a1\n", "size": "small"},
        {"allocation": "a1", "size": "small", "cores": 512},
        {"allocation": "a1", "size": "small", "image": {"name": "evil"}},
    ],
)
def test_forged_options_are_refused_with_a_sentence(forged):
    with pytest.raises(InvalidChoiceError, match=r"\.$"):
        to_choice(forged)


def test_the_form_names_allocation_size_and_image_and_nothing_else():
    form = {"choice": ["a1::small"], "image": ["lab"], "_xsrf": ["x"], "cores": ["512"]}
    assert from_form(form) == {"allocation": "a1", "size": "small", "image": "lab"}


def test_a_link_may_name_the_fields_themselves():
    assert from_form({"allocation": ["a1"], "size": ["small"]}) == {"allocation": "a1", "size": "small"}


def test_a_form_value_without_its_two_parts_is_refused_later():
    with pytest.raises(InvalidChoiceError):
        to_choice(from_form({"choice": ["small"]}))


def test_an_image_of_ones_own_counts_before_the_listed_one():
    form = {"choice": ["a1::small"], "image": ["base"], "custom_image": [" registry.example.org/lab:1 "]}
    assert from_form(form)["image"] == "registry.example.org/lab:1"
    assert from_form(form | {"custom_image": [" "]})["image"] == "base"
