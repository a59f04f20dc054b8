"""A record of arrivals knows what a dictionary knows, whatever its portions, and is whole or refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocations.storage.purge import arrivals
from allocations.storage.purge.arrivals import Arrivals, ArrivalsError, keys_of, record

KEYS = st.one_of(st.integers(0, 30), st.integers(0, (1 << 64) - 1), st.sampled_from([0, (1 << 63), (1 << 64) - 1]))


def spool(path, keys) -> str:
    np.array(keys, dtype=np.uint64).tofile(path)
    return str(path)


@settings(max_examples=80, deadline=None)
@given(rounds=st.lists(st.lists(st.lists(KEYS, max_size=20), max_size=3), min_size=1, max_size=4))
def test_the_record_is_that_of_a_dictionary(tmp_path_factory, rounds):
    place = tmp_path_factory.mktemp("arrivals")
    path = str(place / "record")
    expected: dict[int, int] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrivals, "KEYS_AT_ONCE", 4)
        for number, parts in enumerate(rounds):
            day = 20_000 + number * 7
            known = {key for part in parts for key in part}
            expected = {key: expected.get(key, day) for key in known}
            count = record(path, [spool(place / f"{at}", part) for at, part in enumerate(parts)], day)
            assert count == len(Arrivals(path)) == len(expected)
            asked = np.array([*known, 12345, 7, (1 << 64) - 2], dtype=np.uint64)
            found = Arrivals(path).days_of(asked, unknown=99).tolist()
            assert found == [expected.get(int(key), 99) for key in asked]
    assert sorted(one.name for one in place.iterdir() if not one.name.isdigit()) == ["record"]


def test_a_damaged_record_is_refused_with_a_remedy(tmp_path):
    path = tmp_path / "record"
    record(str(path), [spool(tmp_path / "spool", [1, 2, 3])], 20_000)
    whole = path.read_bytes()
    for at in range(len(whole)):
        if 20 <= at < 24:
            continue  # what fills the header
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(ArrivalsError, match="damaged"):
            Arrivals(str(path))
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.raises(ArrivalsError) as raised:
            Arrivals(str(path))
    assert "Remove it" in raised.value.remedy


def test_keys_tell_each_number_apart():
    base = np.array([5, 5, 5, 6, -1], dtype=np.int64)
    times = np.array([7, 8, 7, 7, -1], dtype=np.int64)
    sizes = np.array([9, 9, 10, 9, -1], dtype=np.int64)
    assert len(set(keys_of(base, times, sizes).tolist())) == 5
    # Written down, so that records stay readable whatever the version of numpy.
    assert keys_of(base, times, sizes)[0] == np.uint64(KEY_OF_5_7_9)


def mixed(key: int) -> int:
    """One step of SplitMix64, in whole numbers."""
    bits = (1 << 64) - 1
    key = (key + 0x9E3779B97F4A7C15) & bits
    key = ((key ^ key >> 30) * 0xBF58476D1CE4E5B9) & bits
    key = ((key ^ key >> 27) * 0x94D049BB133111EB) & bits
    return key ^ key >> 31


KEY_OF_5_7_9 = mixed(mixed(mixed(5) ^ 7) ^ 9)
