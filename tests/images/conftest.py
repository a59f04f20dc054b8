"""The images, built for real; kept in the cache under a name of what they are made from, as are their layers."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
STORE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "meridian-images"
# What .dockerignore lets into a build, and what tells how to build.
ENTERS = (
    "LICENSE",
    "README.md",
    "pyproject.toml",
    "package-lock.json",
    "allocations",
    "hub",
    "policies",
    "example-notebooks",
    "images",
)
REVISION = "0123456789abcdef0123456789abcdef01234567"
# With nothing in the cache the pipeline's image takes ten minutes of two busy cores.
BUILD_SECONDS = 1800


def buildah(*arguments: str) -> str:
    """Run buildah on the tests' own store and return what it prints."""
    done = subprocess.run(
        ["buildah", "--root", STORE, *arguments], check=False, capture_output=True, text=True, timeout=BUILD_SECONDS
    )
    assert done.returncode == 0, f"buildah {arguments[0]}: {done.stderr[-2000:]}"
    return done.stdout


@dataclass(frozen=True)
class Built:
    """An image that has been built, with a container made from it."""

    name: str
    container: str

    def run(self, *command: str, options: tuple[str, ...] = ()) -> str:
        """Run a command as the image's user and return what it prints."""
        return buildah("run", "--isolation", "chroot", *options, self.container, "--", *command)

    def configuration(self) -> dict[str, Any]:
        """The image's configuration, as Docker writes it: user, labels, health check."""
        described = json.loads(buildah("inspect", "--type", "image", self.name))
        found: dict[str, Any] = described["Docker"]["config"]
        return found

    def layers(self) -> list[Path]:
        """The folders of the image's layers, the base's included, the topmost first."""
        wanted = json.loads(buildah("inspect", "--type", "image", self.name))["FromImageID"]
        images = json.loads((STORE / "overlay-images" / "images.json").read_text())
        parents = {
            one["id"]: one.get("parent") for one in json.loads((STORE / "overlay-layers" / "layers.json").read_text())
        }
        layer = next(image["layer"] for image in images if image["id"] == wanted)
        found = []
        while layer:
            found.append(STORE / "overlay" / layer / "diff")
            layer = parents[layer]
        return found


@cache
def base() -> str:
    """Make the base that the images start from here."""
    done = subprocess.run(
        [ROOT / "tests" / "cluster" / "scripts" / "base"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=BUILD_SECONDS,
        env=os.environ | {"MERIDIAN_IMAGE_STORE": str(STORE)},
    )
    return done.stdout.strip()


@cache
def digest() -> str:
    """Name what the images are made from."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *ENTERS],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    content = hashlib.sha256(base().encode())
    for name in sorted(filter(None, listed.stdout.split("\0"))):
        if (ROOT / name).is_file():
            content.update(name.encode() + b"\0" + hashlib.sha256((ROOT / name).read_bytes()).digest())
    return content.hexdigest()[:16]


def is_built(name: str, image: str) -> bool:
    """Whether the store has the image, and the folder of this checkout its bill of materials."""
    known = buildah("images", "--format", "{{.Name}}:{{.Tag}}").split()
    return image in known and (ROOT / "build" / "images" / f"{name}.cdx.json").exists()


@pytest.fixture(scope="session")
def build() -> Iterator[Callable[[str], Built]]:
    """Give a function that builds an image, once, and makes a container from it."""
    made: dict[str, Built] = {}

    def build_one(name: str) -> Built:
        if name not in made:
            image = f"localhost/meridian-{name}:{digest()}"
            if not is_built(name, image):
                settings = {"MERIDIAN_IMAGE_STORE": str(STORE), "MERIDIAN_BUILDER": "buildah", "BASE": base()}
                subprocess.run(
                    [ROOT / "images" / "build", name],
                    check=True,
                    timeout=BUILD_SECONDS,
                    env=os.environ | settings | {"TAG": digest(), "REVISION": REVISION},
                )
            made[name] = Built(image, buildah("from", "--pull-never", image).strip())
        return made[name]

    yield build_one
    for one in made.values():
        buildah("rm", one.container)


@pytest.fixture(params=["hub", "allocations", "lab"])
def image(request: pytest.FixtureRequest, build: Callable[[str], Built]) -> Built:
    return build(request.param)
