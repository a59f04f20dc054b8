"""Takes one lock or condition away at a time, in a copy of the tree, and sees whether the tests notice.

`make mutations`, or `python -m tests.mutations NAME…` for some. Each mutation is an exact edit and the tests that must
fail with it; one whose text is no longer in the code is reported as stale. Ends with status 1 when one survives.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tests.mutations import batch, hub, leases, ledger, lifecycle, plans, purges, scratch, secrecy, storage

if TYPE_CHECKING:
    from tests.mutations.mutation import Mutation

REPOSITORY = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "node_modules", "state", "*_cache", "__pycache__", "images")
TESTS_FAILED = 1  # of pytest's exit codes
_OF = (ledger, leases, lifecycle, hub, storage, purges, plans, scratch, batch, secrecy)
MUTATIONS = tuple(mutation for one in _OF for mutation in one.MUTATIONS)


def run_tests(tree: Path, tests: list[str], *, on_postgresql: bool = False) -> int:
    """Run tests in a tree until the first fails; return pytest's exit code."""
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    if not on_postgresql:
        command += ["-k", "not postgresql"]
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, check=False).returncode


def outcome(mutation: Mutation, tree: Path) -> str:
    """Make the edit in the tree, run the tests, undo it; say what became of the mutation."""
    path = tree / mutation.file
    text = path.read_text()
    if text.count(mutation.old) != 1:
        return "stale"
    path.write_text(text.replace(mutation.old, mutation.new))
    try:
        code = run_tests(tree, list(mutation.tests), on_postgresql=mutation.on_postgresql)
    finally:
        path.write_text(text)
    return {0: "SURVIVED", TESTS_FAILED: "killed"}.get(code, f"broken (pytest ended with {code})")


def main() -> None:
    """Try the mutations that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="mutations whose name or file has one of these texts (all)")
    names = parser.parse_args().names
    chosen = [one for one in MUTATIONS if not names or any(name in f"{one.name} {one.file}" for name in names)]
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(REPOSITORY, tree, ignore=LEFT_OUT)
        # The pages' tests serve what comes from there.
        (tree / "node_modules").symlink_to(REPOSITORY / "node_modules")
        if run_tests(tree, sorted({test for one in chosen for test in one.tests})):
            sys.exit("The tests fail as it is: nothing can be said of mutations.")
        outcomes = []
        for mutation in chosen:
            begin = time.monotonic()
            outcomes.append(outcome(mutation, tree))
            click.echo(f"{outcomes[-1]:10} {time.monotonic() - begin:4.0f} s  {mutation.file}: {mutation.name}")
    click.echo(f"{outcomes.count('killed')} of {len(outcomes)} killed")
    sys.exit(set(outcomes) != {"killed"})


if __name__ == "__main__":
    main()
