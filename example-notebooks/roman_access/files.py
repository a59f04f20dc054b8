"""Files by address: a path of this machine, an object in a bucket (`s3://bucket/key`), a file of MAST's (`mast://…`).

Buckets are read with the credentials of the environment. Public ones need none: set ROMAN_ACCESS_ANONYMOUS=1.
AWS_ENDPOINT_URL chooses another store than Amazon's.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds

from roman_access.mast import MAST, download_from_mast

ANONYMOUS = "ROMAN_ACCESS_ANONYMOUS"
S3 = "s3://"


def open_dataset(uri: str) -> Any:
    """Open a Parquet file, or a folder of them, as a `pyarrow.dataset.Dataset`; rows are read when they are asked for.

    Files and folders whose names begin with `_` or `.` are left out, and so is anything that is not Parquet.

    Raises
    ------
    FileNotFoundError, PermissionError, ConnectionError
        There is no such file or bucket, it may not be read, or the store does not answer.
    """
    if not uri.startswith(S3):
        return ds.dataset(str(_here(uri)), format="parquet", exclude_invalid_files=Path(uri).is_dir())
    path = uri.removeprefix(S3).rstrip("/")
    with _plain_errors(uri):
        filesystem = _s3()
        # One file first: many a public bucket may be read and not listed.
        names = [path] if filesystem.isfile(path) else sorted(filter(_part_of(path), filesystem.find(path)))
        if not names:
            message = "no Parquet files lie there"
            raise FileNotFoundError(message)
        return ds.dataset(names, format="parquet", filesystem=filesystem)


def local_copy(uri: str, directory: Path) -> Path:
    """Return the path of a file, copied to `directory` first where it lies in a bucket or at MAST.

    Reading a whole file once is quicker than many small reads across the network. A copy that is there is used
    again; one that broke off leaves nothing.

    Raises
    ------
    FileNotFoundError, PermissionError, ConnectionError
        There is no such file or bucket, it may not be read, or the store does not answer.
    """
    if not uri.startswith((S3, MAST)):
        return _here(uri)
    target = directory / uri.rsplit("/", 1)[-1]
    if not target.exists():
        directory.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            if uri.startswith(MAST):
                download_from_mast(uri, part)
            else:
                _copy_object(uri, part)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    return target


def _here(uri: str) -> Path:
    path = Path(uri)
    if not path.exists():
        message = f"{uri} is not here: give a path of this machine, {S3}bucket/key, or {MAST}… from find_mast_files"
        raise FileNotFoundError(message)
    return path


def _part_of(folder: str) -> Callable[[str], bool]:
    """Whether a file below a folder is a part of its table."""

    def is_part(path: str) -> bool:
        names = path.removeprefix(f"{folder}/").split("/")
        return path.endswith(".parquet") and not any(name.startswith(("_", ".")) for name in names)

    return is_part


def _copy_object(uri: str, part: Path) -> None:
    with part.open("wb") as copy, _plain_errors(uri), _s3().open(uri.removeprefix(S3), "rb") as source:
        shutil.copyfileobj(source, copy, 2**24)


def _s3() -> Any:
    try:
        import s3fs  # noqa: PLC0415 - only in the pipeline image
    except ImportError as error:
        message = f"Reading {S3} addresses needs s3fs: choose the pipeline image, or pip install --user s3fs"
        raise ImportError(message) from error
    # It tries again by itself; the library below would do so for each of its tries.
    retries = {"retries": {"max_attempts": 0}}
    return s3fs.S3FileSystem(
        anon=os.environ.get(ANONYMOUS) == "1", config_kwargs=retries, use_listings_cache=False, skip_instance_cache=True
    )


@contextmanager
def _plain_errors(uri: str) -> Iterator[None]:
    """Say what to do about what went wrong between a bucket and here."""
    try:
        from botocore.exceptions import BotoCoreError, NoCredentialsError  # noqa: PLC0415 - comes with s3fs
    except ImportError:
        # Then s3fs is not there either, which says so itself.
        yield
        return
    try:
        yield
    except FileNotFoundError as error:
        message = f"{uri} cannot be opened ({error}): check the names of the bucket and the file, and AWS_ENDPOINT_URL"
        raise FileNotFoundError(message) from error
    except (PermissionError, NoCredentialsError) as error:
        message = (
            f"{uri} may not be read ({error}): set {ANONYMOUS}=1 for a public bucket, otherwise AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY of somebody who may"
        )
        raise PermissionError(message) from error
    except (BotoCoreError, TimeoutError) as error:
        message = f"the store of {uri} does not answer ({error}): check AWS_ENDPOINT_URL and the network, and try again"
        raise ConnectionError(message) from error
