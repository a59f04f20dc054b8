"""Rows of tables behind services that speak the Virtual Observatory's Table Access Protocol."""

import warnings
from typing import Any

import pandas as pd

from roman_access.sessions import with_time_limits

CUT_OFF = "OVERFLOW"


def query_region(
    service: str, table: str, columns: list[str], ra_deg: float, dec_deg: float, radius_deg: float, *, limit: int
) -> pd.DataFrame:
    """Rows of a TAP service's table within a circle, e.g. of `gaiadr3.gaia_source` at Gaia's archive.

    The table's positions are in columns `ra` and `dec` (degrees). At most `limit` rows, else an error: a cut-off list
    has holes that nobody sees. A service that cuts off answers given at once is asked again for one given later, for
    which limits are wider.

    Raises
    ------
    ValueError
        There are more rows than `limit`, or than the service gives; or it refuses the query.
    ConnectionError
        The service cannot be reached, or gives no answer.
    """
    try:
        import pyvo  # noqa: PLC0415 - only in the pipeline image
        import requests  # noqa: PLC0415 - as above
        from pyvo.dal.exceptions import DALAccessError, DALOverflowWarning, DALQueryError  # noqa: PLC0415 - as above
    except ImportError as error:
        message = "TAP services need pyvo: choose the pipeline image, or pip install --user pyvo"
        raise ImportError(message) from error

    region = f"CONTAINS(POINT('ICRS', ra, dec), CIRCLE('ICRS', {ra_deg}, {dec_deg}, {radius_deg}))"
    # ADQL has no bound parameters; the person asks a public service in their own name.
    query = f"SELECT TOP {limit + 1} {', '.join(columns)} FROM {table} WHERE 1 = {region}"  # noqa: S608
    tap = pyvo.dal.TAPService(service, session=with_time_limits(requests.Session()))
    try:
        with warnings.catch_warnings():
            # A cut-off answer is more than a warning here.
            warnings.simplefilter("ignore", DALOverflowWarning)
            result: Any = tap.run_sync(query, maxrec=limit + 1)
            if result.status[0] == CUT_OFF and len(result) <= limit:
                result = tap.run_async(query, maxrec=limit + 1)
    except DALQueryError as error:
        message = f"{service} refused the query ({error}): check the names of the table {table} and its columns"
        raise ValueError(message) from error
    except (DALAccessError, requests.RequestException) as error:
        message = (
            f"{service} gave no table ({error}): check that this is the address of a TAP service, then try again later "
            "or with a smaller radius"
        )
        raise ConnectionError(message) from error
    if len(result) > limit:
        message = f"more than {limit} rows of {table}: take a smaller radius or a larger limit"
        raise ValueError(message)
    if result.status[0] == CUT_OFF:
        message = f"{service} gives only {len(result)} of the rows of {table} there: take a smaller radius"
        raise ValueError(message)
    rows: pd.DataFrame = result.to_table().to_pandas()
    return rows
