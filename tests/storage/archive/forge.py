"""What an archive's manifest tells, and archives whose manifest tells something else."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import zstandard

from allocations.storage.archive.format import (
    COMMIT,
    FRAME_BYTES,
    MANIFEST,
    Stored,
    decompressed,
    footer,
    part_name,
    read_commit,
    read_lines,
)
from allocations.storage.archive.stores import Folder


def lines(store):
    with store.read(MANIFEST) as stream:
        return list(read_lines(decompressed(stream)))


def forged(store, manifest, path, *, tar=None):
    """The same parts, or one that holds another tar, with another manifest, and sums that are right."""
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(store._path, path)
    lines = [line.to_json() for line in manifest]
    made = read_commit(store)
    told: dict[str, Any] = {"members": made.members, "total_bytes": made.total_bytes, "left": made.left}
    written = {MANIFEST: zstandard.compress(b"".join(lines))}
    if tar is not None:
        frames = [zstandard.compress(tar[at : at + FRAME_BYTES]) for at in range(0, len(tar), FRAME_BYTES)]
        written[part_name(0)] = b"".join(frames) + footer([len(frame) for frame in frames], lines)
        told = {"members": len(manifest), "total_bytes": sum(line.size for line in manifest), "left": 0}
    for name, data in written.items():
        Path(path, name).write_bytes(data)
    sums = {name: Stored(len(data), hashlib.sha256(data).hexdigest()) for name, data in written.items()}
    Path(path, COMMIT).write_bytes(replace(made, objects={**made.objects, **sums}, **told).to_json())
    return Folder(str(path))
