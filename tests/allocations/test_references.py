"""References to container images: what the grammar admits, and nothing else, whatever people write."""

from __future__ import annotations

import re
import shlex

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from allocations.policy.references import REFERENCE_LENGTH_MAX, is_place, is_within, to_reference

LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
HOSTS = st.one_of(
    st.lists(LABELS, min_size=2, max_size=4).map(".".join),
    st.builds("{}:{}".format, LABELS, st.integers(1, 65_535)),
    st.just("localhost"),
)
PARTS = st.from_regex(r"[a-z0-9]{1,8}((\.|_|__|-{1,3})[a-z0-9]{1,8}){0,2}", fullmatch=True)
TAGS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
DIGESTS = st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True)
ENDS = st.one_of(TAGS.map(":{}".format), DIGESTS.map("@{}".format), st.builds(":{}@{}".format, TAGS, DIGESTS))
PATHS = st.lists(PARTS, min_size=1, max_size=3)
SOUND = st.builds(lambda host, path, end: f"{host}/{'/'.join(path)}{end}", HOSTS, PATHS, ENDS)


@given(SOUND)
def test_every_sound_reference_is_read_and_written_as_it_was(text: str) -> None:
    assert len(text) <= REFERENCE_LENGTH_MAX
    reference = to_reference(text)
    assert str(reference) == text
    assert reference.tag or reference.digest


@given(st.one_of(st.text(max_size=80), st.from_regex(r"[a-zA-Z0-9./:@_-]{1,60}", fullmatch=True), SOUND))
def test_what_is_read_means_nothing_to_a_shell_or_to_yaml(text: str) -> None:
    try:
        reference = to_reference(text)
    except ValueError:
        return
    assert str(reference) == text
    assert re.fullmatch(r"[a-zA-Z0-9./:@_-]+", text)
    assert shlex.split(text) == [text]
    assert yaml.safe_load(text) == text
    assert yaml.safe_load(f"image: {text}\n") == {"image": text}
    assert not text.startswith("-")


@given(
    SOUND,
    st.sampled_from([" ", "\n", "\t", "\0", "$(id)", "`id`", ";id", "&&id", "#", "'", '"', "{}", "%", "\\", "é"]),
    st.data(),
)
def test_nothing_else_is_let_in_anywhere(text: str, trick: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(text)))
    with pytest.raises(ValueError, match="It "):
        to_reference(text[:at] + trick + text[at:])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "lab",
        "lab:1",
        "team/lab:1",  # a registry is never guessed
        "registry.example.org/lab",  # nor is a tag
        "registry.example.org/lab:",
        "registry.example.org/lab@sha256:abc",
        "registry.example.org/lab@md5:d41d8cd98f00b204e9800998ecf8427e",
        "registry.example.org/Lab:1",
        "Registry.example.org/lab:1",
        "registry.example.org//lab:1",
        "registry.example.org/../lab:1",
        "registry.example.org/lab:1\n",
        "https://registry.example.org/lab:1",
        "user:secret@registry.example.org/lab:1",
        "registry.example.org/lab:-1",
        "registry.example.org:123456/lab:1",
        "registry.example.org/" + "a" * 250 + ":1",
        "rég.example.org/lab:1",
        "registry.example.org/lab:١",
    ],
)
def test_what_is_no_reference_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match=r"^It "):
        to_reference(text)


@pytest.mark.parametrize(
    ("place", "reference", "within"),
    [
        ("quay.io", "quay.io/jupyter/scipy-notebook:1", True),
        ("quay.io/jupyter", "quay.io/jupyter/scipy-notebook:1", True),
        ("quay.io/jupyter", "quay.io/jupyterhub/hub:1", False),
        ("quay.io/jupyter", "quay.io.example.org/jupyter/lab:1", False),
        ("quay.io/jupyter/lab", "quay.io/jupyter:1", False),
        ("ghcr.io/*/lab", "ghcr.io/anybody/lab:1", True),
        ("ghcr.io/*/lab", "ghcr.io/anybody/other:1", False),
        ("ghcr.io/*/lab", "ghcr.io/a/b/lab:1", False),
        ("localhost:5000", "localhost:5001/lab:1", False),
    ],
)
def test_a_place_admits_part_for_part(place: str, reference: str, within: bool) -> None:
    assert is_place(place)
    assert is_within(to_reference(reference), place) is within


@pytest.mark.parametrize(
    "text", ["*", "*/lab", "*.io/lab", "ghcr.io/", "ghcr", "ghcr.io/**", "ghcr.io/a*", "https://ghcr.io", ""]
)
def test_a_host_is_never_a_wildcard_and_places_are_whole(text: str) -> None:
    assert not is_place(text)


@given(SOUND, st.lists(PARTS, max_size=2), HOSTS)
def test_another_host_is_never_within(text: str, path: list[str], host: str) -> None:
    reference = to_reference(text)
    if reference.repository.split("/")[0] != host:
        assert not is_within(reference, "/".join([host, *path]))
