"""Keeps archives in a bucket of S3, or of what speaks like it.

Whatever fails in passing (throttling, stalls, lost connections, bytes that arrive changed, answers that are none) is
done again, a bounded number of times, and what comes too slowly is given up. Nothing is overwritten: each object is
committed on the condition that there is none of its name.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, NoCredentialsError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from allocations.storage.archive.stores import AbsentError, PresentError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import CompletedMultipartUploadTypeDef, CompletedPartTypeDef

T = TypeVar("T")

# Pieces of an upload double after so many, so that 10,000 (S3's limit) make a terabyte and the first are small.
PIECE_BYTES = 16 << 20
PIECES_OF_A_SIZE = 2_000
PIECES = 10_000
# A body that comes more slowly than this, bytes a second, stalls as well as one that does not come at all.
SLOWEST = 16 << 10
_PASSING = {
    "BadDigest",
    "InternalError",
    "RequestTimeout",
    "RequestTimeTooSkewed",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
}
_SERVER_ERROR = 500
_TOO_MANY = 429
_REMEDIES = {
    "AccessDenied": "allow this account s3:GetObject, s3:PutObject, s3:DeleteObject, s3:ListBucket, "
    "s3:ListBucketMultipartUploads and s3:AbortMultipartUpload there, then go on",
    "403": "allow this account s3:GetObject and s3:ListBucket there, then go on",
    "InvalidAccessKeyId": "set the credentials of an account that there is, then go on",
    "SignatureDoesNotMatch": "set the right secret key, then go on",
    "NoSuchBucket": "make the bucket, or set the right name, then go on",
    "SlowDown": "the bucket is throttled: go on later, or with fewer workers",
    "QuotaExceeded": "make room in the bucket, then go on",
}


class _UnusableError(OSError):
    """What came is no answer of S3, or not all of it, or comes too slowly."""


class Patience(NamedTuple):
    """How often something is tried, and how long is waited for an answer and before the second and the last try."""

    tries: int = 8
    timeout_seconds: float = 60.0
    first_wait_seconds: float = 0.5
    longest_wait_seconds: float = 20.0


class S3:
    """The objects of one archive: those of a bucket whose keys begin with a prefix."""

    def __init__(
        self,
        bucket: str,
        prefix: str,
        *,
        endpoint_url: str | None = None,
        patience: Patience | None = None,
        sleep: Callable[[float], None] = time.sleep,
        make_token: Callable[[], str] = secrets.token_hex,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connect with the credentials of the environment; `prefix` ends without a slash, `""` is the bucket itself."""
        self.patience = patience or Patience()
        timeout = self.patience.timeout_seconds
        # Tries are ours to count: the library does not know what is safe to do again.
        config = Config(connect_timeout=timeout, read_timeout=timeout, retries={"total_max_attempts": 1})
        self.client: S3Client = boto3.client("s3", endpoint_url=endpoint_url, config=config)
        self.bucket = bucket
        self._prefix = prefix
        self._sleep = sleep
        self._make_token = make_token
        self.clock = clock

    @contextmanager
    def create(self, name: str) -> Iterator[_Upload]:
        """See `Store`."""
        key = self.key(name)
        if self.size(name) is not None:
            raise PresentError(f"s3://{self.bucket}/{key} is there already, and is not overwritten")
        self._abort_others(key)
        upload = _Upload(self, key, self._make_token())
        try:
            yield upload
        finally:
            with suppress(StoreError):
                upload.abort()

    @contextmanager
    def read(self, name: str, start: int = 0, end: int | None = None) -> Iterator[_Download]:
        """See `Store`."""
        download = _Download(self, self.key(name), start, end)
        try:
            yield download
        finally:
            download.close()

    def size(self, name: str) -> int | None:
        """See `Store`."""
        key = self.key(name)
        with suppress(AbsentError):
            return self.tried(key, lambda: self._size(key))
        return None

    def _size(self, key: str) -> int:
        found = self.client.head_object(Bucket=self.bucket, Key=key)
        _field(found, "ETag")
        return found["ContentLength"]

    def listed(self) -> Iterator[str]:
        """Yield all keys of the bucket at the prefix, as they are listed, in order; raises StoreError."""
        prefix = self.key("")
        after = ""
        while True:
            found = self.tried(
                prefix,
                lambda: self.client.list_objects_v2(Bucket=self.bucket, Prefix=prefix, StartAfter=after),  # noqa: B023
            )
            yield from (one["Key"] for one in found.get("Contents", ()))
            if not found["IsTruncated"]:
                return
            after = found["Contents"][-1]["Key"]

    def names(self) -> list[str]:
        """See `Store`."""
        before = self.key("")
        return [key.removeprefix(before) for key in self.listed()]

    def remove(self, name: str) -> None:
        """See `Store`. Where the bucket keeps versions, its own rules remove those that are not current."""
        key = self.key(name)
        with suppress(AbsentError):
            self.tried(key, lambda: self.client.delete_object(Bucket=self.bucket, Key=key))

    def clear(self) -> None:
        """See `Store`."""
        prefix = self.key("")
        after: dict[str, Any] = {}
        while True:
            found = self.tried(
                prefix,
                lambda: self.client.list_multipart_uploads(Bucket=self.bucket, Prefix=prefix, **after),  # noqa: B023
            )
            for upload in found.get("Uploads", ()):
                self.abort(upload["Key"], upload["UploadId"])
            if not found.get("IsTruncated"):
                return
            after = {"KeyMarker": found["NextKeyMarker"], "UploadIdMarker": found["NextUploadIdMarker"]}

    def key(self, name: str) -> str:
        """Return the key of an object."""
        return f"{self._prefix}/{name}" if self._prefix else name

    def tried(self, key: str, call: Callable[[], T]) -> T:
        """Do something as often as it takes, and as is allowed; raises AbsentError, PresentError, StoreError."""
        wait = self.patience.first_wait_seconds
        for left in reversed(range(self.patience.tries)):
            try:
                return call()
            except (ClientError, BotoCoreError, ResponseParserError, HTTPError, OSError) as error:
                if not left or not _is_passing(error):
                    raise self._explained(key, error) from error
            self._sleep(wait)
            wait = min(2 * wait, self.patience.longest_wait_seconds)
        raise AssertionError("There is at least one try")

    def _abort_others(self, key: str) -> None:
        """Uploads that a killed run left are charged for ever."""
        found = self.tried(key, lambda: self.client.list_multipart_uploads(Bucket=self.bucket, Prefix=key))
        for other in found.get("Uploads", ()):
            if other["Key"] == key:
                self.abort(key, other["UploadId"])

    def abort(self, key: str, upload: str) -> None:
        """Let go of the pieces of an upload."""
        with suppress(AbsentError):
            call = self.client.abort_multipart_upload
            self.tried(key, lambda: call(Bucket=self.bucket, Key=key, UploadId=upload))

    def _explained(self, key: str, error: Exception) -> StoreError:
        where = f"s3://{self.bucket}/{key}"
        if isinstance(error, ClientError):
            code = error.response.get("Error", {}).get("Code", "")
            if code in ("NoSuchKey", "NoSuchUpload", "404"):
                return AbsentError(f"{where} is not there")
            if code in ("PreconditionFailed", "412"):
                return PresentError(f"{where} is there already, and is not overwritten")
            remedy = _REMEDIES.get(code, "see to it, then go on: what is finished is kept")
            return StoreError(f"{where}: {code}: {remedy}")
        if isinstance(error, NoCredentialsError):
            return StoreError(f"{where}: there are no credentials: set them as boto3 finds them, then go on")
        return StoreError(f"{where}: {error}: see whether the service can be reached, then go on")


def _is_passing(error: Exception) -> bool:
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = error.response.get("Error", {}).get("Code", "")
        return code in _PASSING or status >= _SERVER_ERROR or status == _TOO_MANY
    return not isinstance(error, BotoCoreError) or isinstance(error, HTTPClientError)


def _field(answer: Mapping[str, Any], key: str) -> str:
    """Return what an answer must tell; raises _UnusableError, as whatever is in between may answer something else."""
    value = answer.get(key)
    if not isinstance(value, str):
        raise _UnusableError("the answer is not that of an object store")
    return value


class _Upload:
    """An object that is being written: at once where it is small, in pieces where it is not."""

    def __init__(self, store: S3, key: str, token: str) -> None:
        self._store = store
        self._client = store.client
        self._where: dict[str, Any] = {"Bucket": store.bucket, "Key": key}
        self._key = key
        # What tells our own object from another's, where the answer to its commit was lost.
        self._token = {"meridian-writer": token}
        self._held = bytearray()
        self._upload: str | None = None
        self._pieces: list[CompletedPartTypeDef] = []

    def write(self, data: bytes, /) -> None:
        self._held += data
        while len(self._held) >= (size := PIECE_BYTES << (len(self._pieces) // PIECES_OF_A_SIZE)):
            self._put_piece(bytes(memoryview(self._held)[:size]))
            del self._held[:size]

    def commit(self) -> None:
        if self._upload is not None and self._held:
            self._put_piece(bytes(self._held))
        try:
            self._store.tried(self._key, self._commit)
        except (AbsentError, PresentError):
            if not self._is_ours():
                raise
        self._upload = None

    def _commit(self) -> None:
        if self._upload is None:
            data = bytes(self._held)
            _field(
                self._client.put_object(
                    **self._where, Body=data, ChecksumSHA256=_sha256(data), Metadata=self._token, IfNoneMatch="*"
                ),
                "ETag",
            )
        else:
            pieces: CompletedMultipartUploadTypeDef = {"Parts": self._pieces}
            _field(
                self._client.complete_multipart_upload(
                    **self._where, UploadId=self._upload, MultipartUpload=pieces, IfNoneMatch="*"
                ),
                "ETag",
            )

    def abort(self) -> None:
        if self._upload is not None:
            self._store.abort(self._key, self._upload)

    def _put_piece(self, data: bytes) -> None:
        if len(self._pieces) == PIECES:
            raise StoreError(f"{self._key} has become too large for S3: archive its largest files in another way")
        if self._upload is None:
            self._upload = self._store.tried(
                self._key,
                lambda: _field(
                    self._client.create_multipart_upload(
                        **self._where, ChecksumAlgorithm="SHA256", Metadata=self._token
                    ),
                    "UploadId",
                ),
            )
        upload, number, sha256 = self._upload, len(self._pieces) + 1, _sha256(data)
        etag = self._store.tried(
            self._key,
            lambda: _field(
                self._client.upload_part(
                    **self._where, UploadId=upload, PartNumber=number, Body=data, ChecksumSHA256=sha256
                ),
                "ETag",
            ),
        )
        self._pieces.append({"PartNumber": number, "ETag": etag, "ChecksumSHA256": sha256})

    def _is_ours(self) -> bool:
        """The commit may have been done though its answer was lost, so that the second try was refused."""
        try:
            found = self._store.tried(self._key, lambda: self._client.head_object(**self._where))
        except AbsentError:
            return False
        return found.get("Metadata") == self._token


class _Download:
    """An object that is being read; a connection that is lost is taken up again where it was."""

    def __init__(self, store: S3, key: str, start: int, end: int | None) -> None:
        self._store = store
        self._key = key
        self._at = start
        self._end = end
        self._etag: str | None = None
        self._body: Any = None
        self._stack = ExitStack()
        self._waited_seconds = 0.0
        self._waited_bytes = 0
        self._slow = 0
        self._store.tried(key, self._open)

    def read(self, size: int, /) -> bytes:
        if self._at == self._end:
            return b""
        try:
            data = self._store.tried(self._key, lambda: self._read(size))
        except PresentError as error:
            raise StoreError(f"{self._key} changed while it was read: see who writes there, then go on") from error
        self._at += len(data)
        return data

    def close(self) -> None:
        self._stack.close()
        self._body = None

    def _read(self, size: int) -> bytes:
        if self._body is None:
            self._open()
        assert self._end is not None
        begun = self._store.clock()
        try:
            # What is there, rather than all that is asked for, which may come one byte at a time.
            data: bytes = self._body.read1(min(size, self._end - self._at))
            if not data and size:
                raise _UnusableError("it ends too early")  # noqa: TRY301
            self._check_pace(self._store.clock() - begun, len(data))
        except Exception:
            self.close()
            raise
        return data

    def _check_pace(self, seconds: float, size: int) -> None:
        """Raise _UnusableError where little comes for as long as an answer is waited for, and StoreError in the end."""
        self._waited_seconds += seconds
        self._waited_bytes += size
        if self._waited_seconds < self._store.patience.timeout_seconds:
            return
        is_slow = self._waited_bytes < SLOWEST * self._waited_seconds
        self._waited_seconds, self._waited_bytes = 0.0, 0
        if is_slow:
            self._slow += 1
            if self._slow == self._store.patience.tries:
                raise StoreError(f"s3://{self._store.bucket}/{self._key} comes too slowly: see to the line, then go on")
            raise _UnusableError("it comes too slowly")

    def _open(self) -> None:
        if self._end is not None and self._at >= self._end:
            raise StoreError(f"{self._key}: there is nothing to read of it")
        to = "" if self._end is None else self._end - 1
        same: dict[str, Any] = {} if self._etag is None else {"IfMatch": self._etag}
        found = self._store.client.get_object(
            Bucket=self._store.bucket, Key=self._key, Range=f"bytes={self._at}-{to}", **same
        )
        etag = _field(found, "ETag")
        # The length of the body, which is told too, is also that of a body that something in between cut short.
        told = re.fullmatch(r"bytes (\d+)-(\d+)/\d+", _field(found, "ContentRange"))
        if told is None or int(told[1]) != self._at:
            raise _UnusableError("the answer is of another range")
        self._body = self._stack.enter_context(found["Body"])
        self._etag, self._end = etag, int(told[2]) + 1


def _sha256(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()
