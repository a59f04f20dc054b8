"""The structure: which part may import which, and that no registry or machine is named in what is committed."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Each part may import itself and those before it; the last ones wire and start everything.
LAYERS = (
    {"clock", "ids", "errors", "logs"},
    {"policy"},
    {"db"},
    {"ledger", "outbox"},
    {"lifecycle"},
    {"leases"},
    {"runs", "duties", "notify"},
    {"storage"},
    {"reports"},
    {"settings"},
    {"factory", "hub_client"},
    {"api"},
    {"web"},
    {"app", "worker", "storage_agent", "up"},
    {"cli", "commands"},
)


def imports(path: Path) -> set[str]:
    """Return the modules that a file imports, for type checking or not."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


@pytest.mark.parametrize("path", sorted((ROOT / "allocations").rglob("*.py")), ids=lambda path: str(path.name))
def test_no_module_imports_upwards(path: Path) -> None:
    part = path.relative_to(ROOT / "allocations").parts[0].removesuffix(".py")
    level = {name: number for number, names in enumerate(LAYERS) for name in names} | {"__init__": -1}
    for module in imports(path):
        if module.split(".")[0] == "allocations":
            assert level[part_of(module)] <= level[part], f"{path} imports {module}"
        assert part == "cli" or not module.startswith("hub."), f"{path} imports {module}: the hub speaks HTTP"


@pytest.mark.parametrize("path", sorted((ROOT / "hub").rglob("*.py")), ids=lambda path: str(path.name))
def test_the_hub_speaks_http(path: Path) -> None:
    assert not [module for module in imports(path) if module.split(".")[0] == "allocations"]


def test_no_registry_and_no_machine_is_named() -> None:
    hosts = re.compile(r"pypi\.org|pythonhosted|deb\.debian|npmjs\.org|yarnpkg|cdn\.|unpkg|jsdelivr")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    this_file = Path(__file__).relative_to(ROOT)
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if Path(name) == this_file or not path.is_file():
            continue
        content = path.read_bytes().decode("utf-8", errors="ignore")
        assert not hosts.search(content), f"{name} names a registry"
