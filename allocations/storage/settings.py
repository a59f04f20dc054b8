"""What the process that has the mounts is told of them: a file of YAML or JSON; secrets never stand in it."""

from __future__ import annotations

import os
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

import boto3
import yaml
from botocore.config import Config
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from allocations.errors import InvalidInputError
from allocations.storage.agent import DUTY_SECONDS
from allocations.storage.archive.places import ArchivePlaces
from allocations.storage.models import StorageClass
from allocations.storage.purge.models import Mount
from allocations.storage.quotas.backends import name_of
from allocations.storage.quotas.btrfs import BtrfsSubvolumes
from allocations.storage.quotas.objects import BucketPrefixes
from allocations.storage.quotas.scanned import ScannedFolders
from allocations.storage.quotas.xfs import XfsProjects
from allocations.storage.tree.scan import CORES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allocations.storage.models import StoredArea
    from allocations.storage.quotas.backends import Backend

# Of the client that lists buckets: listing is safe to do again.
LIST_TIMEOUT_SECONDS = 60
LIST_TRIES = 8
# Less could be over before it is renewed.
MIN_DUTY_SECONDS = 5


def _is_absolute(text: str) -> str:
    path = PurePosixPath(text)
    if not path.is_absolute() or ".." in path.parts or str(path) != text or text == "/":
        raise ValueError(f"{text!r} must be the absolute path of a folder, without a slash at its end")
    return text


def _is_prefix(text: str) -> str:
    if text != text.strip("/") or "//" in text or ".." in text.split("/"):
        raise ValueError(f"{text!r} must be a prefix without a slash at its ends")
    return text


def _is_place(text: str) -> str:
    if not text.startswith("s3://"):
        return _is_absolute(text)
    parts = urlsplit(text)
    if not parts.netloc or "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(f"{text!r} must be like s3://bucket/prefix")
    _is_prefix(parts.path.removeprefix("/"))
    return text


AbsolutePath = Annotated[str, AfterValidator(_is_absolute)]
Prefix = Annotated[str, AfterValidator(_is_prefix)]
Place = Annotated[str, AfterValidator(_is_place)]
AccountNumber = Annotated[int, Field(ge=0, lt=2**32 - 1)]
Seconds = Annotated[float, Field(gt=0)]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _ClassSettings(_Settings):
    plain_names: Annotated[
        bool, Field(description="Whether also names that are no labels of Kubernetes, as ann@example.org, name folders")
    ] = False


class _Folders(_ClassSettings):
    folder: AbsolutePath
    uid: Annotated[AccountNumber, Field(description="Whose new areas are")]
    gid: AccountNumber


class FolderClass(_Folders):
    """Areas as folders of one folder: `scan` looks at every entry, `btrfs` has subvolumes that it counts and limits."""

    backend: Literal["scan", "btrfs"]


class XfsClass(_Folders):
    """Areas as projects of an XFS; `mount` is where it is mounted, `folder` may lie within."""

    backend: Literal["xfs"]
    mount: AbsolutePath


class BucketClass(_ClassSettings):
    """Areas as prefixes of a bucket, beneath a prefix of all."""

    backend: Literal["objects"]
    bucket: Annotated[str, Field(min_length=1)]
    prefix: Prefix = ""
    endpoint_url: str | None = None


ClassSettings = Annotated[FolderClass | XfsClass | BucketClass, Field(discriminator="backend")]


class Intervals(_Settings):
    """How often each duty is done, in seconds."""

    limits: Seconds = 60
    measure: Seconds = 6 * 3600
    charges: Seconds = 600
    purges: Seconds = 15


class StorageSettings(_Settings):
    """The mounts: each class with its backend, where archives are kept, and a folder of the process's own."""

    classes: dict[StorageClass, ClassSettings] = Field(default_factory=dict)
    archive: Place | None = None
    archive_endpoint_url: str | None = None
    state: AbsolutePath
    intervals_seconds: Intervals = Intervals()
    duty_seconds: Annotated[
        int, Field(ge=MIN_DUTY_SECONDS, description="When a process dies, another takes its duties over so much later")
    ] = DUTY_SECONDS
    entries_per_second: Annotated[float | None, Field(gt=0, description="Of a scan; null: as the policy says")] = None
    processes: Annotated[int | None, Field(gt=0, description="Of a scan; null: one for each core")] = None

    @model_validator(mode="after")
    def _objects_are_in_buckets(self) -> StorageSettings:
        for name, one in self.classes.items():
            if (name is StorageClass.OBJECT) != isinstance(one, BucketClass):
                raise ValueError(f"classes: {name}: the backend {one.backend!r} is not for this class")
        return self

    @model_validator(mode="after")
    def _folders_lie_apart(self) -> StorageSettings:
        """What is in an area is its owner's, and a purge of one class must not meet another's files."""
        folders = list(self._folders())
        for number, (what, folder) in enumerate(folders):
            for other, its_folder in folders[:number]:
                if folder.is_relative_to(its_folder) or its_folder.is_relative_to(folder):
                    raise ValueError(f"{what} and {other} must lie apart: {folder}, {its_folder}")
        return self

    @classmethod
    def from_file(cls, path: str) -> StorageSettings:
        """Read the settings; InvalidInputError says what is wrong with them."""
        try:
            with open(path, "rb") as file:
                content = yaml.safe_load(file)
            return cls.model_validate(content)
        except OSError as error:
            raise InvalidInputError(
                f"{path} cannot be read: {error.strerror}.", "Set MERIDIAN_STORAGE_CONFIG to the settings of storage."
            ) from error
        except yaml.YAMLError as error:
            raise InvalidInputError(f"{path} is not YAML: {error}", "Mend the file.") from error
        except ValidationError as error:
            problems = "\n".join(f"{path}: {_where(one['loc'])}: {one['msg']}" for one in error.errors())
            raise InvalidInputError(problems, "Mend the file.") from error

    @classmethod
    def required(cls) -> StorageSettings:
        """Read the file that MERIDIAN_STORAGE_CONFIG names; InvalidInputError where it names none."""
        path = os.environ.get("MERIDIAN_STORAGE_CONFIG")
        if not path:
            raise InvalidInputError(
                "The environment variable MERIDIAN_STORAGE_CONFIG is not set.",
                "Set it to the file that says where people's files are: see docs/storage.md.",
            )
        return cls.from_file(path)

    def folder_of(self, storage_class: StorageClass) -> str | None:
        """Return the folder of a class's areas; None for one that has none here."""
        one = self.classes.get(storage_class)
        return None if one is None or isinstance(one, BucketClass) else one.folder

    def backend(self, storage_class: StorageClass, policy_entries_per_second: float | None) -> Backend:
        """Make what keeps the areas of a class; the policy's bound on scans holds where there is none here."""
        one = self.classes[storage_class]
        match one:
            case BucketClass():
                config = Config(
                    connect_timeout=LIST_TIMEOUT_SECONDS,
                    read_timeout=LIST_TIMEOUT_SECONDS,
                    retries={"mode": "standard", "total_max_attempts": LIST_TRIES},
                )
                client: Any = boto3.client("s3", endpoint_url=one.endpoint_url, config=config)
                return BucketPrefixes(client, one.bucket)
            case XfsClass():
                return XfsProjects(one.mount, one.folder, owner=(one.uid, one.gid))
            case FolderClass(backend="btrfs"):
                return BtrfsSubvolumes(one.folder, owner=(one.uid, one.gid))
        pace = self.entries_per_second or policy_entries_per_second
        if self.processes is None:
            return ScannedFolders(one.folder, owner=(one.uid, one.gid), entries_per_second=pace)
        return ScannedFolders(one.folder, owner=(one.uid, one.gid), processes=self.processes, entries_per_second=pace)

    def mount(self, area: StoredArea) -> Mount:
        """Return how an area is mounted here; InvalidInputError where nothing can be taken away or brought back.

        Archives need a place, and areas folders: a bucket's objects are measured only.
        """
        folder = self.folder_of(area.storage_class)
        if folder is None or self.archive is None:
            raise InvalidInputError(
                f"{area.storage_class} has no folder or no archive here.", "Set both in the settings of storage."
            )
        path = f"{folder}/{name_of(area.area)}"
        return Mount(path, self.state, self.places, processes=self.processes or CORES)

    @property
    def places(self) -> ArchivePlaces:
        """Where archives are; InvalidInputError where there is no place for them."""
        if self.archive is None:
            raise InvalidInputError("There is no place for archives here.", "Set `archive` in the settings of storage.")
        return ArchivePlaces(self.archive, self.archive_endpoint_url)

    @property
    def purged_classes(self) -> tuple[StorageClass, ...]:
        """The classes whose areas can be purged, archived and brought back here."""
        return tuple(one for one in self.classes if self.archive is not None and self.folder_of(one) is not None)

    def _folders(self) -> Iterator[tuple[str, PurePosixPath]]:
        yield "state", PurePosixPath(self.state)
        if self.archive is not None and not self.archive.startswith("s3://"):
            yield "archive", PurePosixPath(self.archive)
        for name, one in self.classes.items():
            if not isinstance(one, BucketClass):
                yield f"classes: {name}", PurePosixPath(one.folder)


def _where(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "the file"
