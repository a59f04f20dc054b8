"""The images' locked requirements: whole, hashed, of one resolution, and of no place in particular."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.fresh import shipped_policy
from tests.images.locks import FOLDER, GPU, PIPELINE, ROOT, locked, pins

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names(requirements: list[str]) -> set[str]:
    """The names, as locked files write them, of requirements as pyproject.toml writes them."""
    found = (re.match(r"[\w.-]+", requirement) for requirement in requirements)
    return {re.sub(r"[-_.]+", "-", match[0]).lower() for match in found if match}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.lock")), ids=lambda path: str(path.stem))
def test_every_package_is_pinned_by_hash_and_no_place_is_named(path) -> None:
    text = path.read_text()
    assert "://" not in text
    entries = re.split(r"\n(?=\S)", text.strip())
    assert entries
    for entry in entries:
        assert re.match(r"[\w.-]+(\[.*\])?==\S+ .*--hash=sha256:", entry, re.DOTALL), entry


def test_the_images_have_what_the_project_requires() -> None:
    assert names(PROJECT["dependencies"]) <= {name for name, _ in locked("hub")}
    assert names(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["lab"]) <= {
        name for name, _ in locked("lab")
    }


def test_the_platform_runs_the_versions_that_are_tested_here() -> None:
    tested = pins(ROOT / "requirements.lock")
    known = {name for name, _ in tested}
    assert {pin for pin in locked("hub") if pin[0] in known} <= tested


@pytest.mark.parametrize("layers", [PIPELINE, GPU], ids=["pipeline", "gpu"])
def test_the_layers_of_a_lab_are_one_resolution_without_doubles(layers: tuple[str, ...]) -> None:
    every = [name for lock in layers for name, _ in pins(FOLDER / f"{lock}.lock")]
    assert len(every) == len(set(every))


def test_the_gpu_lab_brings_cuda_itself_of_one_major_version() -> None:
    names_of_gpu = {name for name, _ in pins(FOLDER / "gpu.lock")}
    cuda = {name for name in names_of_gpu if name.startswith("nvidia-")}
    assert {"nvidia-cublas-cu12", "nvidia-cuda-runtime-cu12", "nvidia-cudnn-cu12"} <= cuda
    assert all(name.endswith("-cu12") for name in cuda)
    assert {"jax", "jax-cuda12-plugin", "cupy-cuda12x"} <= names_of_gpu


@pytest.mark.parametrize(("image", "name"), [("base", "lab"), ("pipeline", "pipeline"), ("gpu", "gpu")])
def test_the_catalogue_names_the_versions_that_are_locked(image: str, name: str) -> None:
    recommended = shipped_policy().image(image).recommended
    assert recommended is not None
    assert recommended.packages
    assert set(recommended.packages.items()) <= locked(name)
