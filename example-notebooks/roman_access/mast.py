"""Files that MAST holds: found by their place on the sky, and downloaded."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roman_access.sessions import with_time_limits

MAST = "mast://"
TOKEN = "MAST_API_TOKEN"  # noqa: S105 - a variable's name
MOST_DATASETS = 5000


@dataclass(frozen=True)
class MastFile:
    """One file that MAST holds: its name, its size if MAST tells it, and an address that `local_copy` takes."""

    name: str
    uri: str
    size_bytes: int | None


def find_mast_files(
    ra_deg: float, dec_deg: float, radius_arcmin: float, *, suffix: str = "_cal.asdf", mission: str = "roman"
) -> list[MastFile]:
    """Files of a mission whose names end with `suffix` and whose exposures lie near a position.

    `suffix` is `_uncal.asdf` for ramps (Level 1) and `_cal.asdf` for calibrated images (Level 2). Restricted data
    need a MAST token in the environment variable MAST_API_TOKEN.

    Raises
    ------
    ValueError
        There are more exposures than MAST lists, or it refuses the question.
    ConnectionError
        MAST cannot be reached, or gives no answer.
    """
    from astropy import units  # noqa: PLC0415 - as astroquery
    from astropy.coordinates import SkyCoord  # noqa: PLC0415 - as astroquery

    with _plain_errors("the list of files"):
        missions = _missions(mission)
        datasets = missions.query_region(
            SkyCoord(ra_deg, dec_deg, unit="deg"), radius=radius_arcmin * units.arcmin, limit=MOST_DATASETS
        )
        if len(datasets) == 0:
            return []
        if len(datasets) >= MOST_DATASETS:
            message = f"{MOST_DATASETS} exposures or more, which is all that MAST lists: take a smaller radius"
            raise ValueError(message)
        # Detectors of one exposure may share a file, which is then listed for each.
        products = {str(row["uri"]): row for row in missions.get_product_list(datasets)}
    return [
        MastFile(str(row["filename"]), f"{MAST}{mission}/{uri}", int(row["size"]) if row["size"] else None)
        for uri, row in sorted(products.items())
        if str(row["filename"]).endswith(suffix)
    ]


def download_from_mast(uri: str, target: Path) -> None:
    """Download the file at an address that `find_mast_files` gave.

    Raises
    ------
    FileNotFoundError
        MAST has no such file.
    PermissionError
        It is restricted to others.
    ConnectionError
        MAST cannot be reached, or gives no answer.
    """
    mission, _, product = uri.removeprefix(MAST).partition("/")
    if not product:
        message = f"{uri} is no address at MAST: take one that find_mast_files gives, mast://mission/product"
        raise ValueError(message)
    with _plain_errors(uri):
        status, reason, _ = _missions(mission).download_file(
            product, local_path=str(target), cache=False, verbose=False
        )
    if status == "COMPLETE":
        return
    if "404" in str(reason):
        message = f"MAST has no {uri}: check its spelling, or find it again with find_mast_files"
        raise FileNotFoundError(message)
    if "401" in str(reason) or "403" in str(reason):
        message = f"{uri} is restricted: set {TOKEN} to a token of yours from https://auth.mast.stsci.edu/token"
        raise PermissionError(message)
    message = f"MAST did not send {uri} ({reason}): try again later"
    raise ConnectionError(message)


def _missions(mission: str) -> Any:
    from astropy.table import Table  # noqa: PLC0415 - as astroquery
    from astroquery.mast import MastMissions  # noqa: PLC0415 - only in the pipeline image

    missions = type(MastMissions)(mission=mission)
    with_time_limits(missions._session)  # noqa: SLF001 - it takes no session of ours
    # astroquery asks for the names of columns first, to check conditions, with no limit of time. There are none here.
    missions.columns[missions.mission] = Table({"name": [missions.get_dataset_kwd() or ""]})
    if os.environ.get(TOKEN):
        missions.login()
    return missions


@contextmanager
def _plain_errors(what: str) -> Iterator[None]:
    """Say what to do about what went wrong between MAST and here."""
    try:
        from astroquery.exceptions import InvalidQueryError, LoginError  # noqa: PLC0415 - only in the pipeline image
        from astroquery.exceptions import TimeoutError as TookTooLongError  # noqa: PLC0415 - as above
        from requests import RequestException  # noqa: PLC0415 - as above
    except ImportError as error:
        message = "MAST needs astroquery: choose the pipeline image, or pip install --user astroquery"
        raise ImportError(message) from error
    try:
        yield
    except LoginError as error:
        message = f"MAST does not know the token in {TOKEN}: make another at https://auth.mast.stsci.edu/token"
        raise PermissionError(message) from error
    except InvalidQueryError as error:
        message = "MAST refused the question: check the position, the radius and the mission's name"
        raise ValueError(message) from error
    except (RequestException, TookTooLongError) as error:
        message = f"MAST did not give {what} ({error}): check the mission's name and the network, then try again later"
        raise ConnectionError(message) from error
