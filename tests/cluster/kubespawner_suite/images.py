"""Images under the public names that KubeSpawner's tests use, in the test cluster's registry, made of the servers'.

The registry answers for every registry's name. Nothing is pulled or built: it is told which of its layers the images
have, and the hub's gets one more, with one file.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import httpx

REGISTRY = "http://127.0.0.1:5000/v2/"
# An image of ours is in this registry, under this name.
OURS = "meridian.test/"
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
OCI = "application/vnd.oci.image.manifest.v1+json"
SERVER = ("jupyterhub/singleuser:latest", "library/python:3.12-slim")
HUB = "jupyterhub/jupyterhub:latest"
HUB_COMMAND = Path(__file__).with_name("hub_without_proxy.py")


def publish_images(image: str) -> None:
    """Give an image of ours, which has JupyterHub on its path, the public names of the servers' image and the hub's."""
    with httpx.Client(base_url=REGISTRY, timeout=60) as registry:
        repository, _, tag = image.removeprefix(OURS).rpartition(":")
        manifest = _checked(
            registry.get(f"{repository}/manifests/{tag}", headers={"Accept": f"{DOCKER}, {OCI}"})
        ).json()
        config = _checked(registry.get(f"{repository}/blobs/{manifest['config']['digest']}")).json()
        for name in (*SERVER, HUB):
            _mount(registry, repository, name, manifest)
        for name in SERVER:
            _name(registry, name, manifest)
        _name(registry, HUB, _hub(registry, manifest, config))


def _hub(registry: httpx.Client, manifest: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Upload a layer with the hub's command, and the configuration of an image with it; return its manifest."""
    path = next(one for one in config["config"]["Env"] if one.startswith("PATH=")).removeprefix("PATH=")
    tar = _tar(f"{path.split(':')[0]}/jupyterhub".lstrip("/"), HUB_COMMAND.read_bytes())
    # As root, as the public image is: the tests' configuration writes below /etc.
    config["config"] |= {"User": "0", "WorkingDir": "/srv"}
    config["rootfs"]["diff_ids"].append(_digest(tar))
    config["history"].append({"created_by": HUB_COMMAND.name})
    layer = manifest["layers"][-1] | _upload(registry, gzip.compress(tar))
    described = manifest["config"] | _upload(registry, json.dumps(config).encode())
    return manifest | {"config": described, "layers": [*manifest["layers"], layer]}


def _tar(path: str, content: bytes) -> bytes:
    file = io.BytesIO()
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(content), 0o755
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def _mount(registry: httpx.Client, repository: str, name: str, manifest: dict[str, Any]) -> None:
    """Let an image share what another one consists of."""
    for blob in (manifest["config"], *manifest["layers"]):
        source = {"mount": blob["digest"], "from": repository}
        mounted = _checked(registry.post(f"{name.partition(':')[0]}/blobs/uploads/", params=source))
        assert mounted.status_code == httpx.codes.CREATED, mounted


def _upload(registry: httpx.Client, content: bytes) -> dict[str, Any]:
    begun = _checked(registry.post(f"{HUB.partition(':')[0]}/blobs/uploads/"))
    place = httpx.URL(begun.headers["Location"]).copy_merge_params({"digest": _digest(content)})
    _checked(registry.put(place, content=content))
    return {"digest": _digest(content), "size": len(content)}


def _name(registry: httpx.Client, name: str, manifest: dict[str, Any]) -> None:
    repository, _, tag = name.partition(":")
    kind = {"Content-Type": manifest["mediaType"]}
    _checked(registry.put(f"{repository}/manifests/{tag}", json=manifest, headers=kind))


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _checked(answer: httpx.Response) -> httpx.Response:
    return answer.raise_for_status()
