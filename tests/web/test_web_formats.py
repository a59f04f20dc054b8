"""How numbers, times and what people type are read and written."""

from __future__ import annotations

import pytest

from allocations.errors import InvalidInputError
from allocations.web.formats import (
    to_credits,
    to_detail,
    to_duration,
    to_exact_credits,
    to_moment,
    to_quantities,
    without_ansi,
)
from allocations.web.forms import to_microcredits, to_parameters


@pytest.mark.parametrize(
    ("microcredits", "text"),
    [(0, "0.00"), (120_000, "0.12"), (1_234_500_000, "1,234.50"), (1_500, "0.0015"), (-46_800, "-0.047")],
)
def test_credits_show_two_decimals_or_two_digits_of_a_small_amount(microcredits: int, text: str) -> None:
    assert to_credits(microcredits) == text


@pytest.mark.parametrize("microcredits", [1, 12_500_000, 100_000_000, 4_000_000_000, 1_234_567])
def test_exact_credits_are_read_back_as_they_were(microcredits: int) -> None:
    assert to_microcredits(to_exact_credits(microcredits), "Credits") == microcredits


@pytest.mark.parametrize("text", ["", "x", "1,000", "-1", "0", "nan", "inf", "1e30", "1.0000001"])
def test_credits_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="Credits: "):
        to_microcredits(text, "Credits")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (45, "45 s"), (600, "10 min"), (725, "12 min 5 s"), (3900, "1 h 5 min"), (183_600, "2 d 3 h")],
)
def test_durations_show_their_two_largest_units(seconds: int, text: str) -> None:
    assert to_duration(seconds) == text


def test_quantities_are_counted_in_hours() -> None:
    quantities = {"seconds": 1800, "core_seconds": 3600, "gib_seconds": 28_800, "gpu_seconds": 0}
    assert to_quantities(quantities) == "1 core-hours, 8 GiB-hours"
    assert to_quantities({}) == "none"


def test_times_say_their_zone() -> None:
    assert to_moment("2026-11-21T01:02:03.000Z") == "21 Nov 2026, 01:02 UTC"


def test_colours_of_a_terminal_are_left_out() -> None:
    assert without_ansi("\x1b[0;31mValueError\x1b[0m: x") == "ValueError: x"


def test_parameters_are_yaml_scalars() -> None:
    text = "a = 1\nb=1.5\nc = true\nd = 'x = y'\ne =\nf = text with spaces\ng = 2026-05-01\nh = [1, two]\n\n# note"
    assert to_parameters(text) == {
        "a": 1,
        "b": 1.5,
        "c": True,
        "d": "x = y",
        "e": None,
        "f": "text with spaces",
        "g": "2026-05-01",
        "h": [1, "two"],
    }


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("microcredits", 1_200_500_000, "1,200.50 credits"),
        ("before_microcredits", 1_000_000, "before 1.00 credits"),
        ("guaranteed", True, "guaranteed: yes"),
        ("lead", "<b>", "lead: <b>"),
        ("instalments_released", 2, "instalments released: 2"),
        ("ends_at_ms", 1_800_000_000_000, "ends at: 15 Jan 2027, 08:00 UTC"),
        ("limits", {"cores": 8, "gpus": None, "microcredits": 2_000_000}, "limits: cores: 8, 2.00 credits"),
        ("caps", {}, "caps: none"),
    ],
)
def test_a_detail_of_the_audit_log_in_words(name: str, value: object, words: str) -> None:
    assert to_detail(name, value) == words
