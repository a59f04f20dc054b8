"""The policy files: valid as shipped, and every mistake named by file and field."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from allocations.cli import main
from allocations.errors import InvalidInputError, PolicyError
from allocations.policy.loader import load_policy, policy_schema, with_idle_seconds
from allocations.settings import Settings
from tests.fresh import POLICIES

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    return shutil.copytree(POLICIES, tmp_path / "policies")


def change(policies: Path, file: str, old: str, new: str) -> None:
    content = (policies / file).read_text()
    assert old in content
    (policies / file).write_text(content.replace(old, new, 1))


def test_the_shipped_policy_is_valid_and_says_what_the_design_says() -> None:
    policy = load_policy(POLICIES)
    assert policy.entry_tier.name == "entry"
    assert policy.tier("research").budget.instalments == (500, 500)
    standard = policy.size("standard")
    assert policy.prices_at(datetime(2026, 6, 1, tzinfo=UTC)).microcredits_per_second(standard) == 2 * 9 + 16
    with pytest.raises(ValueError, match="no prices"):
        policy.prices_at(datetime(2020, 1, 1, tzinfo=UTC))


def test_the_published_schema_is_current() -> None:
    assert (POLICIES / "schema.json").read_text() == policy_schema(), "run `make published`"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("tiers.yaml", "people_max: 1\n", "people_max: many\n", "tiers.yaml: tiers.0.people_max"),
        ("tiers.yaml", "name: research", "name: entry", "the name 'entry' stands more than once"),
        ("tiers.yaml", "instalments: [500, 500]", "instalments: [500]", "instalments add up to 500, not to credits"),
        ("tiers.yaml", "review: one", "review: none", "exactly one must have review: none"),
        ("tiers.yaml", "grace_days: 0", "grace_dais: 0", "tiers.0.grace_dais"),
        ("sizes.yaml", "gpus: 1, gpu_type: t4", "gpus: 1", "gpus and gpu_type go together"),
        ("prices.yaml", "t4: 97", "a100: 833", "no microcredits_per_gpu_second for 't4'"),
        ("prices.yaml", "00:00:00Z", "00:00:00", "effective needs a time zone"),
        ("images.yaml", "default: true", "default: false", "exactly one must have default: true"),
        ("leases.yaml", "renew_before_end_seconds: 300", "renew_before_end_seconds: 900", "less than quantum_seconds"),
        ("leases.yaml", "leases:", "leases: [", "leases.yaml: is not valid YAML"),
        ("agreement.md", "---\n", "", "must begin with front matter"),
    ],
)
def test_a_mistake_is_named(policies: Path, file: str, old: str, new: str, message: str) -> None:
    change(policies, file, old, new)
    with pytest.raises(PolicyError) as raised:
        load_policy(policies)
    assert message in raised.value.detail


def test_a_change_changes_the_version(policies: Path) -> None:
    before = load_policy(policies).version
    change(policies, "agreement.md", "mining", "mining of coins")
    assert load_policy(policies).version != before


def test_the_command_reports_for_people_and_machines(policies: Path) -> None:
    runner = CliRunner()
    assert "The policy is valid" in runner.invoke(main, ["policy", "check"]).output
    (policies / "sizes.yaml").unlink()
    result = runner.invoke(main, ["policy", "check", str(policies)])
    assert result.exit_code == 1
    assert "sizes.yaml: cannot be read" in result.output
    as_json = json.loads(runner.invoke(main, ["policy", "check", str(policies), "--json"]).output)
    assert as_json["ok"] is False


def test_an_installation_may_say_when_servers_of_a_tier_are_idle() -> None:
    policy = load_policy(POLICIES)
    changed = with_idle_seconds(policy, {"entry": 600})
    expected = {tier.name: tier.idle_seconds for tier in policy.tiers} | {"entry": 600}
    assert {tier.name: tier.idle_seconds for tier in changed.tiers} == expected
    with pytest.raises(PolicyError, match="no tier 'gold'"):
        with_idle_seconds(policy, {"gold": 600})


@pytest.mark.parametrize("text", ["600", '{"entry": "600"}', '{"entry": 0}', '{"entry": true}', "{"])
def test_idle_times_that_are_none_are_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MERIDIAN_DATABASE_URL", "sqlite://")
    monkeypatch.setenv("MERIDIAN_RUN_STORE", "runs")
    monkeypatch.setenv("MERIDIAN_IDLE_SECONDS", text)
    with pytest.raises(InvalidInputError, match="MERIDIAN_IDLE_SECONDS"):
        Settings.from_environment()
