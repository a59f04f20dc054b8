"""Local servers get a home that no name can leave and an environment that holds none of the platform's secrets."""

from __future__ import annotations

import asyncio
import os
import sys

import pytest
from jupyterhub.spawner import SpawnException

from hub.spawner.homes import InvalidHomeError, home_path, prepare_home
from tests.hub.kube_leases import lease

SECRETS = {
    "MERIDIAN_TOKEN_SPAWNER": "t1",
    "MERIDIAN_TOKEN_WORKER": "t2",
    "CONFIGPROXY_AUTH_TOKEN": "t3",
    "JUPYTERHUB_CRYPT_KEY": "t4",
    "MERIDIAN_ACCOUNTS_FILE": "t5",
    "AWS_SECRET_ACCESS_KEY": "t6",
}


@pytest.mark.parametrize(
    "name", ["..", ".", "", "../ada", "a/b", "a/../b", "/etc", ".ssh", "-rf", "a..b", "a\n", "A", "a" * 65]
)
def test_a_name_can_not_leave_the_directory_of_homes(tmp_path, name):
    with pytest.raises(InvalidHomeError):
        home_path(tmp_path, name)


@pytest.mark.parametrize("name", ["ada", "ada.l", "ada@example.org", "a-b_c", "x"])
def test_ordinary_names_have_a_home_directly_below(tmp_path, name):
    assert home_path(tmp_path, name).parent == tmp_path.resolve()


def test_a_link_in_the_place_of_a_home_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "ada").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidHomeError):
        prepare_home(tmp_path, "ada", None)


def test_a_home_is_private_and_gets_the_examples_once(tmp_path):
    examples = tmp_path / "examples"
    (examples / ".ipynb_checkpoints").mkdir(parents=True)
    (examples / "first.ipynb").write_text("{}")
    home = prepare_home(tmp_path / "homes", "ada", examples)
    copy = home / "example-notebooks"
    assert home.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in copy.iterdir()] == ["first.ipynb"]
    (copy / "first.ipynb").write_text("mine")
    prepare_home(tmp_path / "homes", "ada", examples)
    assert (copy / "first.ipynb").read_text() == "mine"


def test_a_start_with_an_unsafe_name_is_refused_before_anything_is_held(bench):
    bench.user.orm_user.name = "..%2fada"

    async def scenario():
        await bench.new_spawner(bench.new_queue()).start()

    with pytest.raises(SpawnException, match="can't name a home"):
        asyncio.run(scenario())
    assert bench.service.calls == []


def test_no_secret_of_the_platform_reaches_the_server(bench, tmp_path, monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    seen = tmp_path / "environment"

    async def scenario():
        spawner = bench.new_spawner(
            bench.new_queue(), cmd=["sh", "-c", f"env > {seen}"], meridian_url="http://127.0.0.1:8000/"
        )
        await spawner.start()
        assert os.getsid(spawner.pid) == spawner.pid
        assert await spawner.wait_for_death(30)
        await bench.user.stop()

    asyncio.run(asyncio.wait_for(scenario(), 20))
    environment = dict(line.partition("=")[::2] for line in seen.read_text().splitlines())
    assert not set(SECRETS) & set(environment)
    assert not set(SECRETS.values()) & set(environment.values())
    assert environment["MERIDIAN_URL"] == "http://127.0.0.1:8000/"
    assert environment["MERIDIAN_ALLOCATION"] == "a1"
    assert environment["OMP_NUM_THREADS"] == environment["OPENBLAS_NUM_THREADS"] == "2"
    assert environment["MEM_LIMIT"] == str(8 * 1024**3)
    assert float(environment["CPU_LIMIT"]) == 2
    assert environment["PATH"].startswith(sys.prefix)
    assert environment["HOME"] == str(tmp_path / "homes" / "ada")


@pytest.mark.parametrize("tier", ["entry", "consortium"])
def test_a_server_has_the_folders_of_its_allocation(bench, tmp_path, tier):
    """Those that storage measures; what is shared only where the tier shares."""
    spawner = bench.new_spawner(
        bench.new_queue(), scratch_dir=str(tmp_path / "scratch"), shared_dir=str(tmp_path / "shared")
    )
    spawner.apply_lease(lease(allocation="a-1", tier=tier))
    environment = spawner.get_env()
    scratch = tmp_path / "scratch" / "a-1"
    assert environment["MERIDIAN_SCRATCH"] == str(scratch)
    assert scratch.stat().st_mode & 0o777 == 0o700
    assert environment.get("MERIDIAN_SHARED") == (str(tmp_path / "shared" / "a-1") if tier == "consortium" else None)
    assert (tmp_path / "shared" / "a-1").is_dir() == (tier == "consortium")


def test_no_name_is_like_the_folder_of_somebody_else(tmp_path):
    """Whose name is no folder's has one with a hash: see `place_of` of the allocations service."""
    with pytest.raises(InvalidHomeError):
        home_path(tmp_path, f"ann-example__{'0' * 24}")
