"""What the images' locked requirements say."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "images" / "requirements"
PIPELINE = ("lab", "catalogue", "roman", "psf", "viz")
GPU = ("lab", "gpu")
LOCKS = {"hub": ("platform",), "allocations": ("platform",), "lab": ("lab",), "pipeline": PIPELINE, "gpu": GPU}


def pins(path: Path) -> set[tuple[str, str]]:
    """The packages, with versions, that a locked file names."""
    return set(re.findall(r"^([\w.-]+)(?:\[.*\])?==([^\s;]+)", path.read_text(), re.MULTILINE))


def locked(image: str) -> set[tuple[str, str]]:
    """The packages, with versions, that an image's locked files name."""
    return {pin for lock in LOCKS[image] for pin in pins(FOLDER / f"{lock}.lock")}
