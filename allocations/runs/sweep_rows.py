"""What the rows of a sweep must be made of: a table of parameters, or a grid that makes one. Pure."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from allocations.errors import InvalidInputError
from allocations.runs.notebook_parameters import InvalidParametersError, fitting
from allocations.runs.submissions import require_parameters

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from allocations.runs.notebook_parameters import NotebookParameters

# A value that is a whole table belongs into a file; of ten thousand rows as large as this, a request could not hold.
ROW_BYTES_MAX = 16_384
NAMES_MAX = 100


@dataclass(frozen=True, slots=True)
class Rows:
    """The parameters of each run as JSON, and the names that rows give (the rest is common to all)."""

    varied: list[str]
    parameters: list[str]


def expand(grid: Mapping[str, Sequence[Any]], rows_max: int) -> Iterator[dict[str, Any]]:
    """Return the rows of a grid, the last name changing fastest; InvalidInputError when it has none, or too many."""
    if not grid:
        raise InvalidInputError("The grid has no parameter.", "Give at least one, with its values.")
    empty = [name for name, values in grid.items() if not values]
    if empty:
        raise InvalidInputError(f"The grid gives no value for {empty[0]!r}.", "Give one or more, or leave it out.")
    require_count(math.prod(len(values) for values in grid.values()), rows_max)
    return (dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values()))


def require_count(count: int, rows_max: int) -> int:
    """Return how many runs a sweep has; InvalidInputError for none, or more than the policy allows."""
    if not 0 < count <= rows_max:
        what = "has no rows" if count == 0 else f"would have {count:,} runs"
        raise InvalidInputError(f"The sweep {what}.", f"Give from 1 to {rows_max:,} rows of parameters.")
    return count


def require_rows(
    taken: NotebookParameters, common: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], rows_max: int
) -> Rows:
    """Return the parameters of each run; an error names the first row that cannot be given to a notebook, or does not
    fit what it takes."""
    require_count(len(rows), rows_max)
    require_parameters(common)
    varied: dict[str, None] = {}
    parameters = []
    for number, row in enumerate(rows, start=1):
        try:
            given = {**common, **row}
            require_parameters(given)
            one = require_parameters(fitting(taken, given))
        except (InvalidInputError, InvalidParametersError) as error:
            raise InvalidInputError(f"Row {number}: {error.detail}", error.remedy) from error
        if len(one) > ROW_BYTES_MAX:
            raise InvalidInputError(
                f"Row {number}: the parameters are larger than {ROW_BYTES_MAX // 1024} KiB.",
                "Put large values into a file, and its path into a parameter.",
            )
        parameters.append(one)
        varied.update(dict.fromkeys(row))
        if len(varied) > NAMES_MAX:
            raise InvalidInputError(
                f"The rows have more than {NAMES_MAX} parameters.", "Put what they have in common into `parameters`."
            )
    return Rows(list(varied), parameters)
