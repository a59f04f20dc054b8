"""Archives' services: files of a region of the sky from MAST, and rows of a table by TAP."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

MAST_BUCKET = "s3://stpubdata"


@dataclass(frozen=True)
class MastFile:
    """One file that MAST holds: its name, and an address that `local_copy` takes or a browser downloads."""

    name: str
    uri: str
    size_bytes: int


def find_mast_files(
    ra_deg: float, dec_deg: float, radius_arcmin: float, *, suffix: str = "_cal.asdf", mission: str = "roman"
) -> list[MastFile]:
    """Files of a mission whose names end with `suffix` and whose exposures lie near a position.

    `suffix` is `_uncal.asdf` for ramps (Level 1) and `_cal.asdf` for calibrated images (Level 2). Restricted data
    need a MAST token in the environment variable MAST_API_TOKEN.
    """
    from astroquery.mast import MastMissions  # noqa: PLC0415 - only in the pipeline image

    missions = MastMissions(mission=mission)
    datasets = missions.query_region(f"{ra_deg} {dec_deg}", radius=radius_arcmin / 60)
    if datasets is None or len(datasets) == 0:
        return []
    products = missions.get_product_list(datasets)
    rows = [row for row in products if str(row["filename"]).endswith(suffix)]
    return [MastFile(str(row["filename"]), str(row["uri"]), int(row["size"])) for row in rows]


def query_region(
    service: str, table: str, columns: list[str], ra_deg: float, dec_deg: float, radius_deg: float, *, limit: int
) -> pd.DataFrame:
    """Rows of a TAP service's table within a circle, e.g. of `gaiadr3.gaia_source` at Gaia's archive.

    The table's positions are in columns `ra` and `dec` (degrees). At most `limit` rows, else an error: a cut-off list
    has holes that nobody sees.

    Raises
    ------
    ValueError
        There are more rows than `limit`.
    """
    import pyvo  # noqa: PLC0415 - only in the pipeline image

    region = f"CONTAINS(POINT('ICRS', ra, dec), CIRCLE('ICRS', {ra_deg}, {dec_deg}, {radius_deg}))"
    # ADQL has no bound parameters; the person asks a public service in their own name.
    query = f"SELECT TOP {limit + 1} {', '.join(columns)} FROM {table} WHERE 1 = {region}"  # noqa: S608
    result: Any = pyvo.dal.TAPService(service).run_sync(query)
    rows: pd.DataFrame = result.to_table().to_pandas()
    if len(rows) > limit:
        message = f"more than {limit} rows of {table}: take a smaller radius or a larger limit"
        raise ValueError(message)
    return rows
