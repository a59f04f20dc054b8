"""Saves what a run made where its person wants it as well: in their home, in scratch, or in a bucket.

The runner does it, as the person and with the person's own keys. The platform's copy stays whatever becomes of this.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

TIMEOUT_SECONDS = 30
NOTEBOOK_TYPE = "application/x-ipynb+json"


class NotSavedError(Exception):
    """What a run made could not be saved; the message says why and where what was made is."""


@dataclass(frozen=True)
class Made:
    """What there is to save of a run: the executed notebook under a name, and the files that it declared."""

    run_id: str
    name: str
    notebook: Path
    files: tuple[Path, ...] = ()

    def items(self) -> Iterator[tuple[str, Path]]:
        """Each file with its name in the folder of the run; of two of one name the second gets a number."""
        taken = {self.name}
        yield self.name, self.notebook
        for path in self.files:
            name, number = path.name, 2
            while name in taken:
                name, number = f"{path.stem}-{number}{path.suffix}", number + 1
            taken.add(name)
            yield name, path


def save(place: str, made: Made, roots: Mapping[str, Path], keys: Mapping[str, str]) -> str:
    """Save into a folder of the run's own at a place, and return where that is. Raises NotSavedError.

    place: `home:FOLDER`, `scratch:FOLDER` or `s3://BUCKET/PREFIX`, as the service takes them. roots: the folders that
    the first two are within. keys: the environment variables of the AWS tools.
    """
    try:
        if place.startswith("s3://"):
            return _save_to_bucket(place, made, keys)
        kind, _, folder = place.partition(":")
        if kind not in roots:
            msg = f"This run has no {kind} to save its output to. Choose another place."
            raise NotSavedError(msg)
        return _save_to_folder(roots[kind], folder, made)
    except OSError as error:
        msg = f"The output could not be saved to {place}: {error.strerror or error}. {_KEPT}"
        raise NotSavedError(msg) from error


_KEPT = "Nothing is lost: the platform has the executed notebook."


def _save_to_folder(root: Path, folder: str, made: Made) -> str:
    target = root / folder / made.run_id
    target.mkdir(parents=True, exist_ok=True)
    for name, path in made.items():
        # Whoever looks sees the whole file or none.
        partial = target / f".{name}.{os.getpid()}"
        shutil.copyfile(path, partial)
        partial.replace(target / name)
    return str(target)


def _save_to_bucket(place: str, made: Made, keys: Mapping[str, str]) -> str:
    try:
        # Only those who save to buckets wait for it, and an image need not have it.
        import boto3  # noqa: PLC0415
        from boto3.exceptions import Boto3Error  # noqa: PLC0415
        from botocore.config import Config  # noqa: PLC0415
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415
    except ImportError as error:
        msg = f"The image has no boto3 to save to {place} with. Choose another image or place. {_KEPT}"
        raise NotSavedError(msg) from error
    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    folder = "/".join(part for part in (prefix.strip("/"), made.run_id) if part)
    settings: dict[str, Any] = {
        "connect_timeout": TIMEOUT_SECONDS,
        "read_timeout": TIMEOUT_SECONDS,
        "retries": {"mode": "standard", "total_max_attempts": 4},
        # Other stores than Amazon's refuse the checksums that newer clients add unasked.
        "request_checksum_calculation": "when_required",
    }
    try:
        client = boto3.client(
            "s3",
            endpoint_url=keys.get("AWS_ENDPOINT_URL"),
            region_name=keys.get("AWS_DEFAULT_REGION") or "us-east-1",
            aws_access_key_id=keys.get("AWS_ACCESS_KEY_ID"),
            aws_secret_access_key=keys.get("AWS_SECRET_ACCESS_KEY"),
            aws_session_token=keys.get("AWS_SESSION_TOKEN"),
            config=Config(**settings),
        )
        for name, path in made.items():
            # Never an ACL: buckets whose owner has turned these off, which is the default now, refuse any.
            extra = {"ContentType": NOTEBOOK_TYPE} if path == made.notebook else {}
            client.upload_file(str(path), bucket, f"{folder}/{name}", ExtraArgs=extra)
    except (BotoCoreError, ClientError, Boto3Error, ValueError) as error:
        msg = f"The output could not be saved to {place}: {error}. {_KEPT}"
        raise NotSavedError(msg) from error
    return f"s3://{bucket}/{folder}"
