"""Every mutation finds the text that it changes, and the tests that must notice: `make mutations` is rarely run."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.mutations.__main__ import MUTATIONS

if TYPE_CHECKING:
    from tests.mutations.mutation import Mutation

REPOSITORY = Path(__file__).parents[1]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[one.name for one in MUTATIONS])
def test_a_mutation_is_not_stale(mutation: Mutation) -> None:
    assert (REPOSITORY / mutation.file).read_text().count(mutation.old) == 1
    assert mutation.new != mutation.old
    for test in mutation.tests:
        file, *names = re.sub(r"\[.*", "", test).split("::")
        text = (REPOSITORY / file).read_text()
        for name in names:
            assert re.search(rf"^ *(def|async def|class) {name}\b", text, re.MULTILINE), test


def test_each_mutation_is_called_by_its_name() -> None:
    assert [name for name, times in Counter(one.name for one in MUTATIONS).items() if times > 1] == []
