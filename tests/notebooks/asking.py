"""Python of the pipeline image that asks for data elsewhere, and places that do not answer."""

from __future__ import annotations

import json
import socket
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.notebooks.pipeline_environment import python_in_pipeline

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PREPARED = """
from pathlib import Path
from roman_access import find_mast_files, local_copy, open_dataset
copy = lambda uri: local_copy(uri, Path({0!r}))
"""
FAULTS = """
import json
{prepared}
for code in {codes!r}:
    try:
        exec(code)
    except Exception as error:
        print(json.dumps(type(error).__name__ + ": " + str(error)))
    else:
        print(json.dumps("nothing went wrong"))
"""


def prepared(folder: Path) -> str:
    """Code that makes `open_dataset`, `find_mast_files` and `copy`, which copies to a folder."""
    return PREPARED.format(str(folder))


@dataclass
class Asking:
    """Python of the pipeline image, and its environment."""

    environment: dict[str, str] = field(default_factory=dict)

    def answer(self, code: str, **more: str) -> Any:
        """What the code prints last, as JSON."""
        return self._printed(f"import json\n{code}", more)[-1]

    def faults(self, prepared: str, *codes: str, **more: str) -> list[str]:
        """What goes wrong in each piece of code after some preparation: the error's type and its sentence."""
        return [str(one) for one in self._printed(FAULTS.format(prepared=prepared, codes=codes), more)]

    def _printed(self, code: str, more: dict[str, str]) -> list[Any]:
        done = python_in_pipeline(code, self.environment | more)
        assert done.returncode == 0, done.stderr[-4000:]
        # Libraries say what they do on the standard output too.
        return [json.loads(line) for line in done.stdout.splitlines() if not line.startswith("INFO")]


@contextmanager
def a_port(*, answers: bool) -> Iterator[str]:
    """The address of a port that refuses connections, or takes them and stays silent."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        if answers:
            taken.listen(64)
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"
