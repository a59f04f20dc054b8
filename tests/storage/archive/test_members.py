"""What we write is tar: GNU tar and Python's tarfile read it as we do, and what nobody should write is refused."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import subprocess
import tarfile
from array import array
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocations.storage.archive import members
from allocations.storage.archive.members import DamagedError, Member, UnfitError, read_data, read_member
from allocations.storage.archive.stores import Folder
from allocations.storage.archive.write import write
from allocations.storage.tree.beneath import Root
from tests.storage.archive.trees import make_everything, told, wanted


@pytest.fixture
def tar(tmp_path):
    """The tar of a tree of everything, in parts of a few members each, put together."""
    (tmp_path / "tree").mkdir()
    make_everything(tmp_path / "tree")
    with Root(str(tmp_path / "tree")) as root:
        archive = write(
            Folder(str(tmp_path / "archive")), root, wanted(tmp_path / "tree"), name="a", made_at="now", about={}
        )
    assert (archive.parts, archive.left) == (1, 0)
    return tmp_path / "archive" / "part-00000.tar.zst"


def test_gnu_tar_reads_it(tmp_path, tar):
    (tmp_path / "out").mkdir()
    unpack = (
        f"zstd -dc {tar} | tar -x --xattrs --xattrs-include='*' --same-owner --warning=no-timestamp -pC {tmp_path}/out"
    )
    result = subprocess.run(["bash", "-o", "pipefail", "-c", unpack], capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (0, b"")
    assert told(tmp_path / "out") == told(tmp_path / "tree")


def test_pythons_tarfile_reads_it(tmp_path, tar):
    (tmp_path / "out").mkdir()
    plain = subprocess.run(["zstd", "-dc", tar], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(plain), errors="surrogateescape") as archive:
        archive.extractall(tmp_path / "out", filter="fully_trusted")
    ours, theirs = told(tmp_path / "tree"), told(tmp_path / "out")
    assert set(ours) == set(theirs)
    for path, (mode, owner, _mtime, size, _first, content, link, _xattrs, _sparse) in ours.items():
        assert theirs[path][:2] == (mode, owner), path
        assert (theirs[path][3], theirs[path][5], theirs[path][6]) == (size, content, link), path


TEXTS = st.binary(min_size=1, max_size=300).map(lambda text: os.fsdecode(text.replace(b"\0", b"_")))
NUMBERS = st.integers(-(2**62), 2**62)
OWNERS = st.integers(0, 2**32 - 2)
KINDS = st.sampled_from([members.LINK, members.SYMLINK, members.FIFO, members.FOLDER])
XATTRS = st.dictionaries(TEXTS.map(lambda name: f"user.{name}"), st.binary(max_size=100), max_size=3).map(
    lambda found: tuple(sorted(found.items()))
)
MEMBERS = st.builds(
    Member, TEXTS, KINDS, st.integers(0, 0o7777), OWNERS, OWNERS, NUMBERS, NUMBERS, link=TEXTS, xattrs=XATTRS
)


@settings(deadline=None)
@given(MEMBERS)
def test_a_header_is_read_as_it_was_written(of):
    stream = io.BytesIO(members.header(of, array("q"))[0] + members.END)
    assert read_member(stream) == of
    assert read_member(stream) is None


SEGMENTS = st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 5000)), max_size=40)


@settings(deadline=None)
@given(SEGMENTS, st.integers(0, 5000))
def test_data_comes_back_where_it_was(gaps, end):
    data = array("q")
    at = 0
    content = bytearray()
    for hole, length in gaps:
        content += bytes(hole) + os.urandom(length)
        data.extend((at + hole, length))
        at += hole + length
    content += bytes(end + 1)
    of = Member("file", members.FILE, 0o600, 0, 0, 0, 0, size=len(content))
    header, before = members.header(of, data)
    stored = before + b"".join(content[start : start + size] for start, size in zip(data[::2], data[1::2], strict=True))
    stream = io.BytesIO(header + stored + members.padding(len(stored)) + members.END)
    read = read_member(stream)
    assert read is not None
    digest = hashlib.sha256()
    back = bytearray(read.size)
    for offset, piece in read_data(stream, read, digest):
        back[offset : offset + len(piece)] = piece
    assert back == content
    assert digest.digest() == hashlib.sha256(stored).digest()
    assert read_member(stream) is None


HEADER = members.header(Member("a", members.FILE, 0o600, 0, 0, 0, 0, size=5000), array("q", (100, 50, 4000, 10)))
TAR = b"".join(HEADER) + bytes(60) + members.padding(len(HEADER[1]) + 60) + members.END


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_damage_is_told_or_changes_nothing_but_what_is_told(data):
    """Any bytes may be there instead: nothing but DamagedError is raised, and no more is read than there is."""
    tar = bytearray(TAR)
    for _ in range(data.draw(st.integers(1, 5))):
        tar[data.draw(st.integers(0, len(tar) - 1))] = data.draw(
            st.sampled_from(b"0159= \n\0\xffx") | st.integers(0, 255)
        )
    stream = io.BytesIO(bytes(tar[: data.draw(st.integers(0, len(tar)))]))
    with suppress(DamagedError):
        read_all(stream)


def read_all(stream: io.BytesIO) -> None:
    while (of := read_member(stream)) is not None:
        for offset, piece in read_data(stream, of, hashlib.sha256()):
            assert 0 <= offset <= offset + len(piece) <= of.size


def sealed(block: bytes) -> bytes:
    """A block whose sum is right, as one who means harm writes it."""
    plain = block[:148] + b" " * 8 + block[156:]
    return block[:148] + b"%06o\0 " % sum(plain) + block[156:]


@pytest.mark.parametrize(
    "harm",
    [
        lambda tar: sealed(tar[:124] + b"%011o\0" % (1 << 32) + tar[136:512]) + tar[512:],  # a header of 4 GB
        lambda tar: tar.replace(b"mtime=", b"mtimE="),
        lambda tar: tar.replace(b"realsize=5000", b"realsize=-500"),
        lambda tar: tar.replace(b"realsize=5000", b"realsize=4005"),  # data beyond its end
        lambda tar: tar.replace(b"\n4000\n", b"\n0001\n"),  # data that overlaps
        lambda tar: tar.replace(b"3\n100\n", b"9\n100\n"),
        lambda tar: tar.replace(b"3\n100\n", b"3\n-10\n"),
        lambda tar: tar[: -len(members.END)],
    ],
)
def test_hostile_members_are_refused(harm):
    stream = io.BytesIO(harm(TAR))
    assert stream.getvalue() != TAR
    with pytest.raises(DamagedError):
        read_all(stream)


def test_devices_in_an_archive_are_refused():
    device = Member("sda", b"4", 0o666, 0, 0, 0, 0)
    with pytest.raises(DamagedError, match="neither"):
        read_member(io.BytesIO(members.header(device, array("q"))[0]))


def test_sockets_and_devices_are_left(tmp_path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for path in (tmp_path / "socket", "/dev/null"):
            with pytest.raises(UnfitError):
                members.member("a", os.lstat(path))


def test_attributes_and_holes_beyond_what_memory_takes_are_refused(tmp_path, monkeypatch):
    with open(tmp_path / "file", "wb") as file:
        for number in range(3):
            file.seek(number * 100_000)
            file.write(b"x")
        file.flush()
        os.setxattr(file.fileno(), "user.a", b"x" * 100)
        monkeypatch.setattr(members, "SEGMENTS", 2)
        monkeypatch.setattr(members, "XATTRS_BYTES", 100)
        with pytest.raises(UnfitError, match="holes"):
            members.segments(file.fileno(), file.tell())
        with pytest.raises(UnfitError, match="attributes"):
            members.attributes(file.fileno())
