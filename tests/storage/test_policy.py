"""The policy of storage: as shipped it says what the design says; overlaps and rules that never match are named."""

from __future__ import annotations

import json
import shutil
from itertools import product
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from allocations.cli import main
from allocations.errors import PolicyError
from allocations.lifecycle.models import AllocationState
from allocations.policy import overlaps
from allocations.policy.loader import load_policy
from allocations.policy.storage import StateName, StoragePolicy
from allocations.storage.purge.rules import KEPT, NO_RULE, AreaRules
from tests.fresh import POLICIES, shipped_policy

TIERS = ["entry", "research", "consortium"]
SHIPPED = yaml.safe_load((POLICIES / "storage.yaml").read_text())["storage"]
SIZES = [{"name": "small", "from_bytes": 0}, {"name": "large", "from_bytes": 1000}]


def policy_of(*rules: dict[str, Any], **changes: object) -> StoragePolicy:
    filled = [{"storage": "scratch", "age_days": 10, **rule} for rule in rules]
    return StoragePolicy.model_validate({**SHIPPED, "rules": filled, **changes})


def problems(*rules: dict[str, Any], **changes: object) -> list[str]:
    return overlaps.problems(policy_of(*rules, **changes), TIERS)


def test_the_shipped_policy_says_what_the_design_says() -> None:
    policy = shipped_policy().storage
    limits = {one.name: [one.limit_bytes(tier) for tier in TIERS] for one in policy.classes}
    gb = 10**9
    assert limits == {
        "home": [10 * gb, 50 * gb, 50 * gb],
        "scratch": [100 * gb, 500 * gb, 3000 * gb],
        "shared": [None, None, 200 * gb],
        "object": [50 * gb, 1000 * gb, 10_000 * gb],
    }
    ages = {tier: [rule.age_days for rule in policy.rules_for("scratch", tier, "active")] for tier in TIERS}
    assert ages == {"entry": [14], "research": [30], "consortium": [30]}
    assert policy.rules_for("home", "entry", "active") == ()
    assert policy.rules_for("scratch", "entry", "suspended") == ()


def test_states_are_those_of_allocations() -> None:
    known = set(StateName.__args__)  # type: ignore[attr-defined]
    assert known | {"pending"} == {state.value for state in AllocationState}


def test_a_lead_extends_within_the_policy_only() -> None:
    (rule,) = shipped_policy().storage.rules_for("scratch", "consortium", "active")
    assert [rule.age_for(days) for days in (None, 5, 60, 90, 400)] == [30, 30, 60, 90, 90]
    (fixed,) = shipped_policy().storage.rules_for("scratch", "research", "active")
    assert fixed.age_for(60) == 30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rules": [{"name": "a", "storage": "tape", "age_days": 1}]}, "storage"),
        ({"rules": [{"name": "a", "storage": "home", "age_days": 0}]}, "greater than 0"),
        ({"rules": [{"name": "a", "storage": "home", "age_days": 9, "longest_days": 9}]}, "more than age_days"),
        ({"rules": [{"name": "a", "storage": "home", "age_days": 9, "paths": ["!x"]}]}, "not_paths"),
        ({"rules": [{"name": "a", "storage": "home", "age_days": 9, "sizes": ["huge"]}]}, "no size class 'huge'"),
        ({"rules": [{"name": "a", "storage": "home", "age_days": 9, "before": ["b"]}]}, "no later rule"),
        ({"rules": [{"name": "a", "storage": "home", "age_days": 9}] * 2}, "more than once"),
        ({"kept": [{"classes": ["home"], "folders": ["/.ssh"], "why": "keys"}]}, "ends with a slash"),
        ({"size_classes": [{"name": "small", "from_bytes": 1}]}, "must begin with 0"),
        ({"thresholds": {**SHIPPED["thresholds"], "hard_percent": 90}}, "hard_percent"),
        ({"purge": {**SHIPPED["purge"], "reminders_days": [7]}}, "less than window_days"),
        ({"archives": {**SHIPPED["archives"], "reminders_days": [1, 2]}}, "must fall"),
    ],
)
def test_a_mistake_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        StoragePolicy.model_validate({**SHIPPED, **change})


def test_an_overlap_is_named_with_a_path_unless_it_is_meant() -> None:
    every = {"name": "every"}
    assert problems({"name": "tmp", "paths": ["*.tmp"]}, every) == [
        (
            "rules: tmp and every overlap, for example at '.tmp': "
            "make their paths differ, or write `before: [every]` in tmp"
        )
    ]
    assert problems({"name": "tmp", "paths": ["*.tmp"], "before": ["every"]}, every) == []
    assert problems({"name": "tmp", "paths": ["*.tmp"]}, {**every, "not_paths": ["*.tmp"]}) == []
    assert problems({"name": "tmp", "tiers": ["entry"]}, {**every, "tiers": ["research"]}) == []
    assert problems({"name": "tmp", "states": ["active"]}, {**every, "states": ["grace"]}) == []
    assert problems({"name": "a", "paths": ["/a*b"]}, {"name": "b", "paths": ["/*ba"]}) == []  # "aba": one has each
    (found,) = problems({"name": "a", "paths": ["/a*"]}, {"name": "b", "paths": ["/*b"]})
    assert "'ab'" in found


def test_before_that_means_nothing_is_named() -> None:
    rules = ({"name": "a", "paths": ["/a/"], "before": ["b"]}, {"name": "b", "paths": ["/b/"]})
    assert problems(*rules) == ["rules: a: before names b, of which it takes no files"]


def test_a_rule_that_can_never_match_is_named_with_the_reason() -> None:
    every, tmp = {"name": "every"}, {"name": "tmp", "paths": ["*.tmp"]}
    assert problems(every, tmp) == [
        "rules: tmp: can never match: all its files are taken by earlier rules (every)",
    ]
    two = [{"name": "one", "paths": ["/a/**"]}, {"name": "two", "paths": ["**"], "not_paths": ["/a/"]}]
    assert problems(*two, tmp)[0] == "rules: tmp: can never match: all its files are taken by earlier rules (one, two)"
    assert problems({**tmp, "not_paths": ["*p"]}) == [
        "rules: tmp: can never match: its paths lie within not_paths or kept folders"
    ]
    kept = [{"classes": ["scratch"], "folders": [".git/"], "why": "history"}]
    assert problems({"name": "hooks", "paths": ["/.git/hooks/"]}, kept=kept) == [
        "rules: hooks: can never match: its paths lie within not_paths or kept folders"
    ]
    assert problems({"name": "shared", "storage": "shared", "tiers": ["entry"]}) == [
        "rules: shared: can never match: no tier has storage of its class"
    ]
    sized = [{"name": "a", "sizes": ["small"]}, {"name": "b", "sizes": ["large"]}]
    assert problems(*sized, size_classes=SIZES) == []
    assert problems(*sized, every, size_classes=SIZES) == [
        "rules: every: can never match: all its files are taken by earlier rules (a, b)"
    ]


def test_tiers_that_are_none_are_named() -> None:
    assert problems({"name": "a", "tiers": ["gold"]}) == ["rules: a: there is no tier 'gold'"]
    classes = [{"name": "scratch", "title": "Scratch", "each": "person", "limits_gb": {"gold": 1}}]
    assert problems(classes=classes, kept=[]) == ["classes: scratch: there is no tier 'gold'"]


def test_patterns_too_involved_are_refused_not_worked_at_for_ever(monkeypatch) -> None:
    monkeypatch.setattr(overlaps, "STATES_MAX", 20)
    (found,) = problems({"name": "a", "paths": ["*a*b*c*d"]}, {"name": "b", "paths": ["*d*c*b*a"]})
    assert "too involved" in found


def test_the_files_name_the_file(tmp_path) -> None:
    policies = shutil.copytree(POLICIES, tmp_path / "policies")
    text = (policies / "storage.yaml").read_text()
    (policies / "storage.yaml").write_text(
        text.replace("name: scratch-entry, storage: scratch, tiers: [entry]", "name: x, storage: scratch")
    )
    with pytest.raises(PolicyError) as raised:
        load_policy(policies)
    assert "storage.yaml: rules: scratch-research: can never match" in raised.value.detail


ATOMS = ["/a", "a", "b/", "/a/", "*b", "a*", "/a/b", "**/b", "a/**", "?", "**", "/*/b"]
RULES = st.fixed_dictionaries(
    {"paths": st.lists(st.sampled_from(ATOMS), min_size=1, max_size=2)},
    optional={
        "not_paths": st.lists(st.sampled_from(ATOMS), max_size=2),
        "tiers": st.lists(st.sampled_from(TIERS), max_size=2, unique=True),
        "sizes": st.lists(st.sampled_from(["small", "large"]), max_size=1),
    },
)
# Names and depths that tell any two of these patterns apart, if any do.
NAMED = ["a", "b", "c", "ab", "ba", "ac", "cb"]
EVERY_PATH = ["/".join(parts) for length in (1, 2, 3) for parts in product(NAMED, repeat=length)]


@settings(max_examples=60, deadline=None)
@given(rules=st.lists(RULES, min_size=1, max_size=3))
def test_the_comparison_finds_what_trying_every_path_finds(rules) -> None:
    named = [{"name": f"r{number}", **rule} for number, rule in enumerate(rules)]
    kept = [{"classes": ["scratch"], "folders": ["/c/"], "why": "it is kept"}]
    policy = policy_of(*named, size_classes=SIZES, kept=kept)
    takes: set[str] = set()
    crossing: set[tuple[str, str]] = set()
    for tier, size in product(TIERS, [10, 5000]):
        alone = {
            rule["name"]: AreaRules(
                policy_of(rule, size_classes=SIZES, kept=kept), storage="scratch", tier=tier, state="active", as_of_ms=0
            )
            for rule in named
        }
        for path in EVERY_PATH:
            folder, _, name = path.rpartition("/")
            taken = [one for one, rules in alone.items() if rules.folder(folder).rule_of(name, size) >= 0]
            takes.update(taken[:1])
            crossing.update(pair for pair in product(taken, taken) if pair[0] < pair[1])
    found = overlaps.problems(policy, TIERS)
    never = {line.split(": ")[1] for line in found if "can never match" in line}
    overlapping = {
        tuple(line.split(" overlap,")[0].removeprefix("rules: ").split(" and "))
        for line in found
        if " overlap," in line
    }
    assert never == {rule["name"] for rule in named} - takes
    assert overlapping == {pair for pair in crossing if pair[1] in takes}


def test_what_is_kept_and_what_no_rule_takes_is_told_apart() -> None:
    kept = [{"classes": ["scratch"], "folders": ["keep/"], "why": "it is kept"}]
    rules = AreaRules(
        policy_of({"name": "a", "paths": ["/a/"]}, kept=kept),
        storage="scratch",
        tier="entry",
        state="active",
        as_of_ms=0,
    )
    assert rules.folder("a/keep/deep").rule_of("file", 1) == KEPT
    assert rules.folder("b").rule_of("file", 1) == NO_RULE
    assert (rules.folder("a").rule_of("keep", 1), rules.folder("a").itself, rules.folder("").itself) == (0, 0, NO_RULE)


def test_the_command_explains_a_file() -> None:
    def explain(*arguments: str) -> str:
        return CliRunner().invoke(main, ["policy", "explain", *arguments]).output

    assert "Rule scratch-entry removes it 14 days after" in explain("scratch", "entry", "results/a.fits")
    assert "no rule holds" in explain("scratch", "entry", "a", "--state", "suspended")
    assert "folder that tools need" in explain("home", "entry", ".ssh/key")
    assert json.loads(explain("scratch", "consortium", "a", "--json"))["age_days"] == 30
    assert "Name one of entry, research, consortium" in explain("scratch", "gold", "a")
    assert "no storage of class 'shared'" in explain("shared", "entry", "a")
    assert "no path of a file" in explain("scratch", "entry", "../a")
