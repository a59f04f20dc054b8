"""Reads the policy files and reports what is wrong with them by file and field."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from allocations.errors import PolicyError
from allocations.policy.mail import HTML_FILE, TEXT_FILE
from allocations.policy.models import Policy

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

YAML_FILES = ("tiers.yaml", "sizes.yaml", "prices.yaml", "images.yaml", "leases.yaml", "notices.yaml", "storage.yaml")
AGREEMENT_FILE = "agreement.md"
MAIL_FILES = {"html": HTML_FILE, "text": TEXT_FILE}


def load_policy(directory: Path) -> Policy:
    """Read and check the policy; PolicyError names every file and field that is wrong, one a line."""
    digest = hashlib.sha256()
    content: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for name in YAML_FILES:
        raw = _read(directory / name)
        digest.update(name.encode() + b"\0" + raw)
        for key, value in _parse_yaml(name, raw).items():
            if key in origin:
                raise PolicyError(f"{name}: the key {key!r} stands in {origin[key]} too", "Keep it in one file.")
            content[key], origin[key] = value, name
    raw = _read(directory / AGREEMENT_FILE)
    digest.update(AGREEMENT_FILE.encode() + b"\0" + raw)
    content["agreement"], origin["agreement"] = _parse_agreement(raw), AGREEMENT_FILE
    content["mail"], origin["mail"] = {}, f"{HTML_FILE}, {TEXT_FILE}"
    for form, name in MAIL_FILES.items():
        raw = _read(directory / name)
        digest.update(name.encode() + b"\0" + raw)
        content["mail"][form] = _decode(name, raw)
    content["version"] = digest.hexdigest()[:12]
    try:
        return Policy.model_validate(content)
    except ValidationError as error:
        raise PolicyError(
            "\n".join(_problem(origin, dict(problem)) for problem in error.errors()),
            "Mend the files and run `meridian policy check` again.",
        ) from error


def with_idle_seconds(policy: Policy, by_tier: Mapping[str, int]) -> Policy:
    """Replace the idle times of some tiers, as an installation may; PolicyError names a tier that is not there."""
    unknown = sorted(set(by_tier) - {tier.name for tier in policy.tiers})
    if unknown:
        raise PolicyError(f"There is no tier {unknown[0]!r} to have an idle time.", "Name a tier of tiers.yaml.")
    tiers = tuple(
        tier.model_copy(update={"idle_seconds": by_tier.get(tier.name, tier.idle_seconds)}) for tier in policy.tiers
    )
    return policy.model_copy(update={"tiers": tiers})


def policy_schema() -> str:
    """Return the JSON Schema of the policy as text, as published in `policies/schema.json`."""
    return json.dumps(Policy.model_json_schema(), indent=2, sort_keys=True) + "\n"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PolicyError(
            f"{path.name}: cannot be read ({error.strerror})", f"Put the file into {path.parent}."
        ) from error


def _decode(name: str, raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PolicyError(f"{name}: is not text in UTF-8", "Save the file as UTF-8.") from error


def _parse_yaml(name: str, raw: bytes) -> dict[str, Any]:
    try:
        parsed = yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise PolicyError(f"{name}: is not valid YAML: {error}", "Mend the file.") from error
    if not isinstance(parsed, dict):
        raise PolicyError(f"{name}: must hold keys and values", "See the published schema.")
    return parsed


def _parse_agreement(raw: bytes) -> dict[str, Any]:
    """Split the front matter (version, title) from the text."""
    parts = _decode(AGREEMENT_FILE, raw).split("---\n", 2)
    if len(parts) != len(("before", "front matter", "text")) or parts[0].strip():
        raise PolicyError(
            f"{AGREEMENT_FILE}: must begin with front matter between two lines of ---",
            "Give it a version and a title there.",
        )
    return {**_parse_yaml(AGREEMENT_FILE, parts[1].encode()), "text": parts[2].strip()}


def _problem(origin: dict[str, str], problem: dict[str, Any]) -> str:
    location = [str(part) for part in problem["loc"]]
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not location:
        return message
    where = ".".join(location)
    file = origin.get(location[0], "policies")
    return f"{file}: {where}: {message}"
