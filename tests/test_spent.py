"""What a command took is told of all its processes, and a command that failed is no measurement."""

from __future__ import annotations

import re
import sys

import pytest

from benchmarks.spent import peak_mib, spend

MIB = 1 << 20
# Fills memory with what is no page of zeros, and stays until it is told to end.
HOLD = "import sys; held = b'x' * (40 << 20); print(flush=True); sys.stdin.read()"
TWO = f"""
import subprocess, sys, time
PIPE = subprocess.PIPE
both = [subprocess.Popen([sys.executable, "-Sc", {HOLD!r}], stdin=PIPE, stdout=PIPE) for _ in "12"]
for one in both:
    one.stdout.readline()
time.sleep(1)
for one in both:
    one.communicate()
"""


@pytest.mark.slow
def test_memory_is_that_of_all_processes_together():
    assert 80 <= peak_mib([sys.executable, "-Sc", TWO]) < 160


@pytest.mark.slow
def test_memory_is_not_that_of_who_looks():
    held = b"x" * (200 * MIB)
    assert peak_mib(["sleep", "0.2"]) < 20
    assert held


def test_processor_time_is_that_of_children_too():
    spent = spend(["bash", "-c", 'for ((i = 0; i < 100000; i++)); do :; done | cat; echo "$0"', "told"])
    assert spent.output == "told\n"
    assert spent.processor_seconds > 0.02
    assert spent.seconds > 0


def test_a_command_that_fails_is_told_with_what_it_said():
    with pytest.raises(RuntimeError, match=re.escape("bash ended with status 3: no room")):
        spend(["bash", "-c", "printf 'no room' >&2; exit 3"])
