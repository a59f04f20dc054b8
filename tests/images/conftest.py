"""The images, built for real; kept in the cache under a name of what they are made from, as are their layers."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "tests" / "cluster" / "scripts"
STORE = Path(
    os.environ.get("MERIDIAN_IMAGE_STORE")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meridian-images"
)
# With nothing in the cache all four take ten minutes of two busy cores.
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
    """An image that has been built, with a container made from it and the folder of the container's files."""

    name: str
    container: str
    root: Path

    @property
    def tag(self) -> str:
        """What the name says after the colon: a digest of what the image is made from."""
        return self.name.rpartition(":")[2]

    def run(self, *command: str, options: tuple[str, ...] = ()) -> str:
        """Run a command as the image's user and return what it prints."""
        # By a file: buildah 1.28 may lose what a command prints at its end.
        to_file = ("sh", "-c", '"$@" >/tmp/shown', "sh")
        buildah("run", "--isolation", "chroot", *options, self.container, "--", *to_file, *command)
        return (self.root / "tmp" / "shown").read_text()

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


@pytest.fixture(scope="session")
def build() -> Iterator[Callable[[str], Built]]:
    """Give a function that builds an image, where that is not done yet, and makes a container from it, once."""
    made: dict[str, Built] = {}

    def build_one(name: str) -> Built:
        if name not in made:
            done = subprocess.run(
                [SCRIPTS / "image", "--local", name],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
                timeout=BUILD_SECONDS,
            )
            image = done.stdout.strip()
            container = buildah("from", "--pull-never", image).strip()
            made[name] = Built(image, container, Path(buildah("mount", container).strip()))
        return made[name]

    yield build_one
    for one in made.values():
        buildah("rm", one.container)


@pytest.fixture(params=["hub", "allocations", "lab"])
def image(request: pytest.FixtureRequest, build: Callable[[str], Built]) -> Built:
    return build(request.param)
