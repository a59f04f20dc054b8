"""The images: what runs in them, as whom, and that nothing of the machine that built them is in them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.images.conftest import BUILD_SECONDS, ROOT, SCRIPTS, STORE
from tests.images.locks import locked

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.images.conftest import Built

pytestmark = [pytest.mark.slow, pytest.mark.timeout(BUILD_SECONDS)]

BILL = "/usr/share/meridian/sbom.cdx.json"


def billed(bill: str) -> set[tuple[str, str]]:
    """The packages, with versions, that a bill of materials lists."""
    return {(re.sub(r"[-_.]+", "-", part["name"]).lower(), part["version"]) for part in json.loads(bill)["components"]}


def of_this_machine() -> set[str]:
    """What would tell of the machine that builds: its package indexes and its certificates."""

    def pip(*arguments: str) -> str:
        command = [sys.executable, "-m", "pip", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    settings = re.findall(r"(?:index-url|find-links|trusted-host)='([^']*)'", pip("config", "list"))
    found = {urlsplit(place).hostname or urlsplit(place).path for setting in settings for place in setting.split()}
    # What pip itself names is not of this machine.
    known = pip("install", "--help")
    certificates = Path("/usr/local/share/ca-certificates").glob("*.crt")
    return {text for text in found if text not in known} | {path.read_text().splitlines()[2] for path in certificates}


def test_the_commands_are_there(build: Callable[[str], Built]) -> None:
    assert "allocations accounted to the second" in build("allocations").run("meridian", "--help")
    assert build("allocations").run("meridian", "policy", "check")
    for name, command in (("hub", "jupyterhub"), ("lab", "jupyterhub-singleuser"), ("lab", "jupyter-lab")):
        assert re.match(r"\d+\.\d+", build(name).run(command, "--version"))
    build("lab").run("python", "-c", "import astropy, gwcs, hub.batch.client, photutils, roman_synthetic")


def test_nobody_is_asked_about_news(build: Callable[[str], Built]) -> None:
    shown = """
from jupyter_core.paths import jupyter_config_path
from jupyterlab_server.config import get_page_config
print(get_page_config([f"{folder}/labconfig" for folder in jupyter_config_path()])["disabledExtensions"])
"""
    assert "@jupyterlab/apputils-extension:announcements" in build("lab").run("python", "-c", shown)


def test_a_hub_that_exists_finds_what_it_expects(build: Callable[[str], Built]) -> None:
    modules = "hub.spawner.kube, jupyterhub_idle_culler, kubespawner, oauthenticator, psycopg2"
    build("hub").run("python3", "-c", f"import {modules}")
    assert build("hub").run("sh", "-c", "id -u; pwd; test -w . && echo writable").split() == [
        "1000",
        "/srv/jupyterhub",
        "writable",
    ]


def test_the_user_is_not_root_and_cannot_change_the_software(image: Built) -> None:
    assert image.configuration()["User"].split(":")[0] == "1000"
    assert image.run("id", "-u").strip() == "1000"
    writable = "for place in /opt/*/bin /usr/local/bin /etc; do test ! -w $place || echo $place; done"
    assert not image.run("sh", "-c", writable)


def test_the_labels_say_version_and_revision(image: Built) -> None:
    labels = image.configuration()["Labels"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert labels["org.opencontainers.image.version"] == project["version"]
    assert labels["org.opencontainers.image.revision"] == image.tag
    assert labels["org.opencontainers.image.title"].startswith("Meridian")
    assert "/usr/local/bin/healthy" in image.configuration()["Healthcheck"]["Test"]


@pytest.mark.parametrize("name", ["hub", "allocations", "lab"])
def test_the_bill_of_materials_lists_what_is_locked(name: str, build: Callable[[str], Built]) -> None:
    inside = build(name).run("cat", BILL)
    assert locked(name)
    assert locked(name) <= billed(inside)


def test_a_build_says_what_it_made_and_gives_its_bill_of_materials(build: Callable[[str], Built]) -> None:
    hub = build("hub")
    settings = {"MERIDIAN_IMAGE_STORE": str(STORE), "MERIDIAN_BUILDER": "buildah", "TAG": hub.tag, "REVISION": hub.tag}
    base = subprocess.run([SCRIPTS / "base"], check=True, capture_output=True, text=True, env=os.environ | settings)
    # All of it is in the store.
    command = [str(ROOT / "images" / "build"), "hub"]
    environment = os.environ | settings | {"BASE": base.stdout.strip()}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    (_, line) = done.stdout.splitlines()
    assert re.fullmatch(rf"{hub.name} +\d+(\.\d+)?MB +\d+  build/images/hub.cdx.json", line)
    assert (ROOT / "build" / "images" / "hub.cdx.json").read_text() == hub.run("cat", BILL)


def test_no_layer_has_anything_of_the_machine_that_built_it(image: Built) -> None:
    layers = image.layers()
    assert len(layers) > 2
    for text in of_this_machine():
        found = subprocess.run(["grep", "-rlFI", "-e", text, *layers], check=False, capture_output=True, text=True)
        assert not found.stdout, (
            f"an address, folder or certificate of this machine is in {found.stdout.splitlines()[:3]}"
        )
    for layer in layers:
        for pattern in (
            "root/.cache/*",
            "home/*/.cache",
            "run/secrets/*",
            "run/images/*",
            "opt/tools/*",
            "etc/pip.conf",
        ):
            left = [path for path in layer.glob(pattern) if not path.is_dir() and path.stat().st_size]
            assert not left, f"left behind: {left}"
        assert not list(layer.glob("var/cache/apt/archives/*.deb"))


def test_what_a_person_adds_stays_and_breaks_nothing(tmp_path: Path, build: Callable[[str], Built]) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for name in ("extra", "jupyterhub"):
        with zipfile.ZipFile(home / f"{name}-99-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}.py", "WORDS = 'added by a person'\n")
            wheel.writestr(f"{name}-99.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 99\n")
            wheel.writestr(
                f"{name}-99.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr(f"{name}-99.dist-info/RECORD", "")
    for path in (home, *home.iterdir()):
        os.chown(path, 1000, 100)
    lab = build("lab")
    options = ("--volume", f"{home}:/home/jovyan:rw")
    install = "pip install --user --no-index --no-deps extra-99-py3-none-any.whl"
    lab.run("sh", "-c", install, options=options)
    # A copy of something that the image has is refused, or goes unseen: the server starts as before.
    lab.run("sh", "-c", f"{install.replace('extra', 'jupyterhub')} || true", options=options)
    assert (home / ".local" / "lib" / "python3.11" / "site-packages" / "extra.py").exists()
    assert lab.run("python", "-c", "import extra; print(extra.WORDS)", options=options) == "added by a person\n"
    assert lab.run("jupyterhub-singleuser", "--version", options=options).startswith("6.")


def test_the_health_check_tells_a_service_that_answers_and_has_its_pages_script(build: Callable[[str], Built]) -> None:
    started = """
    cd /tmp && export MERIDIAN_DATABASE_URL=sqlite:////tmp/health.sqlite MERIDIAN_RUN_STORE=/tmp/runs
    python3 /usr/local/bin/healthy allocations 2>/dev/null && exit 1
    export MERIDIAN_ALLOCATIONS_PORT=$(python3 -c "$PORT") MERIDIAN_ALLOCATIONS_METRICS_PORT=$(python3 -c "$PORT")
    python3 /usr/local/bin/healthy allocations 2>/dev/null && exit 1
    export MERIDIAN_COOKIE_SECRET=0123456789abcdef0123456789abcdef JUPYTERHUB_API_TOKEN=x
    export JUPYTERHUB_CLIENT_ID=service-allocations JUPYTERHUB_API_URL=http://127.0.0.1:1/hub/api
    export JUPYTERHUB_OAUTH_CALLBACK_URL=/services/allocations/oauth_callback
    meridian db upgrade --database $MERIDIAN_DATABASE_URL >&2
    meridian serve >&2 & service=$!
    trap 'kill $service' EXIT
    for second in $(seq 120); do
        if python3 /usr/local/bin/healthy allocations; then
            python3 -c "$FETCH" | sha256sum
            exit
        fi
        sleep 1
    done
    exit 1
    """
    port = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1])"
    fetch = (
        "import os, sys, urllib.request as u; port = os.environ['MERIDIAN_ALLOCATIONS_PORT']; "
        "path = 'services/allocations/static/vendor/htmx.min.js'; "
        "sys.stdout.buffer.write(u.urlopen(f'http://127.0.0.1:{port}/{path}').read())"
    )
    options = ("--env", f"PORT={port}", "--env", f"FETCH={fetch}")
    shown = build("allocations").run("sh", "-c", started, options=options)
    assert (
        shown.split()[0] == hashlib.sha256((ROOT / "node_modules/htmx.org/dist/htmx.min.js").read_bytes()).hexdigest()
    )


def test_the_pipeline_is_there(build: Callable[[str], Built]) -> None:
    pipeline = build("pipeline")
    ours = "romancal.pipeline, roman_datamodels, romanisim, galsim, crds, drizzle, reproject, stpsf"
    others = "lsdb, astroquery, pyvo, s3fs, jdaviz"
    pipeline.run("python", "-c", f"import {ours}, {others}")
    assert pipeline.run("id", "-u").strip() == "1000"
    assert locked("pipeline") <= billed(pipeline.run("cat", BILL))
    assert pipeline.run("pip", "check")
    test_no_layer_has_anything_of_the_machine_that_built_it(pipeline)


@pytest.mark.gpu_image
def test_the_gpu_lab_is_there(build: Callable[[str], Built]) -> None:
    gpu = build("gpu")
    # Without a GPU JAX computes on the processor, and CuPy can be imported and says that there is none.
    shown = """
import cupy, jax
print(jax.default_backend(), float(jax.numpy.arange(4.0).sum()))
try:
    cupy.cuda.runtime.getDeviceCount()
except cupy.cuda.runtime.CUDARuntimeError:
    print("no GPU")
"""
    assert gpu.run("python", "-c", shown).split("\n")[:2] == ["cpu 6.0", "no GPU"]
    gpu.run("python", "-c", "import astropy, hub.batch.client, jax_cuda12_plugin, photutils")
    assert gpu.run("id", "-u").strip() == "1000"
    assert locked("gpu") <= billed(gpu.run("cat", BILL))
    assert gpu.run("pip", "check")
    test_no_layer_has_anything_of_the_machine_that_built_it(gpu)
