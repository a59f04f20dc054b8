"""Files by address: a path of this machine, or an object in a bucket (`s3://bucket/key`).

Buckets are read with the credentials of the environment. Public ones need none: set ROMAN_ACCESS_ANONYMOUS=1.
AWS_ENDPOINT_URL chooses another store than Amazon's.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds

ANONYMOUS = "ROMAN_ACCESS_ANONYMOUS"
REMOTE = "s3://"


def open_dataset(uri: str) -> Any:
    """Open a Parquet file, or a folder of them, as a `pyarrow.dataset.Dataset`; rows are read when they are asked for.

    Files whose names begin with `_` or `.` are left out, and so is anything that is not Parquet.
    """
    if not uri.startswith(REMOTE):
        return ds.dataset(uri, format="parquet", exclude_invalid_files=Path(uri).is_dir())
    filesystem = _s3()
    path = uri.removeprefix(REMOTE).rstrip("/")
    names = [path] if filesystem.isfile(path) else sorted(filesystem.glob(f"{path}/**.parquet"))
    if not names:
        message = f"{uri} has no Parquet files: check the address, and that these credentials may list it"
        raise FileNotFoundError(message)
    return ds.dataset(names, format="parquet", filesystem=filesystem)


def local_copy(uri: str, directory: Path) -> Path:
    """Return the path of a file, copied to `directory` first where it lies in a bucket.

    Reading a whole file once is quicker than many small reads across the network. A copy that is there is used
    again; one that broke off leaves nothing under the final name.
    """
    if not uri.startswith(REMOTE):
        return Path(uri)
    target = directory / uri.rsplit("/", 1)[-1]
    if not target.exists():
        directory.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{os.getpid()}")
        with _s3().open(uri.removeprefix(REMOTE), "rb") as source, part.open("wb") as copy:
            shutil.copyfileobj(source, copy, 2**24)
        part.replace(target)
    return target


def _s3() -> Any:
    try:
        import s3fs  # noqa: PLC0415 - only in the pipeline image
    except ImportError as error:
        message = "Reading s3:// addresses needs s3fs: choose the pipeline image, or pip install --user s3fs"
        raise ImportError(message) from error
    return s3fs.S3FileSystem(anon=os.environ.get(ANONYMOUS) == "1")
