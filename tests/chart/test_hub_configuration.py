"""The hub's configuration on Kubernetes, from the chart's own rendering to the pod that a person gets."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from jupyterhub.app import JupyterHub
from jupyterhub.auth import Authenticator
from traitlets.config.loader import PyFileConfigLoader

from hub.spawner.kube import KubeAllocationSpawner
from hub.spawner.manifests import label_value
from tests.chart.rendering import EVERYTHING, EXTERNAL, FULL_NAME, NAMESPACE, STORAGE, TRIAL, only, render
from tests.hub.kube_leases import lease

if TYPE_CHECKING:
    from pathlib import Path

    from traitlets.config import Config


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the function that loads the hub's configuration as its container would with these values."""

    def configuration(values: dict[str, Any], **changes: str) -> Config:
        manifests = render(values)
        (container,) = only(manifests, "Deployment", "hub")["spec"]["template"]["spec"]["containers"]
        for variable in container["env"]:
            monkeypatch.setenv(variable["name"], variable.get("value", f"{variable['name'].lower()}-{'0' * 32}"))
        for name, text in only(manifests, "Secret", "hub")["stringData"].items():
            (tmp_path / name).write_text(text)
        monkeypatch.setenv("MERIDIAN_STATE", str(tmp_path))
        monkeypatch.setenv("MERIDIAN_HUB_CONFIG", str(tmp_path / "config.json"))
        for name, value in changes.items():
            monkeypatch.setenv(name, value)
        return PyFileConfigLoader("jupyterhub_config.py", path=str(tmp_path)).load_config()

    return configuration


@pytest.mark.parametrize("values", [EXTERNAL, TRIAL, EVERYTHING], ids=["external", "trial", "everything"])
def test_every_setting_is_one_that_its_class_has(load: Any, values: dict[str, Any]) -> None:
    config = load(values)
    hub = JupyterHub(config=config)
    authenticator = hub.authenticator_class
    classes = {one.__name__: one for one in (JupyterHub, *KubeAllocationSpawner.mro(), *authenticator.mro())}
    for section in ("KubeSpawner", "KubeAllocationSpawner", "AllocationSpawnerMixin", "Spawner", "Authenticator"):
        unknown = set(config[section]) - set(classes[section].class_trait_names())
        assert not unknown, section
    assert hub.spawner_class is KubeAllocationSpawner


def test_the_addresses_are_those_of_the_charts_services(load: Any) -> None:
    config = load(EXTERNAL)
    services = {
        one["metadata"]["name"]: one["spec"]["ports"][0]["port"] for one in render(EXTERNAL) if one["kind"] == "Service"
    }
    urls = {
        "hub": config.JupyterHub.hub_connect_url,
        "proxy-api": config.ConfigurableHTTPProxy.api_url,
        "allocations": config.JupyterHub.services[0]["url"],
        "proxy-public": config.KubeSpawner.environment["MERIDIAN_URL"],
    }
    assert urls == {name: f"http://{FULL_NAME}-{name}:{services[f'{FULL_NAME}-{name}']}" for name in urls}
    assert config.JupyterHub.cleanup_servers is False


@pytest.mark.parametrize(
    ("values", "url"),
    [
        ({}, ""),
        ({"hub": {"publicUrl": "https://science.example"}}, "https://science.example/"),
        ({"worker": {"mail": {"platformUrl": "https://mailed.example/"}}}, "https://mailed.example/"),
        (
            {"hub": {"publicUrl": "https://science.example/"}, "worker": {"mail": {"platformUrl": "http://other"}}},
            "https://science.example/",
        ),
        ({"ingress": EVERYTHING["ingress"]}, "https://science.example/"),
        ({"ingress": EVERYTHING["ingress"] | {"enabled": False}}, ""),
        ({"ingress": EVERYTHING["ingress"] | {"tls": []}}, ""),
        ({"ingress": EVERYTHING["ingress"] | {"hosts": ["one.example", "two.example"]}}, ""),
        ({"hub": {"publicUrl": "http://science.example"}}, ""),
        ({"hub": {"config": {"JupyterHub": {"public_url": "https://said.example/"}}}}, "https://said.example/"),
    ],
    ids=[
        "nothing",
        "said",
        "as mailed",
        "said before mailed",
        "ingress",
        "off",
        "no tls",
        "two hosts",
        "http",
        "config",
    ],
)
def test_behind_tls_cookies_go_by_https_only(load: Any, values: dict[str, Any], url: str) -> None:
    hub = {**TRIAL["hub"], **values.get("hub", {})}
    config = load({**TRIAL, **values, "hub": hub})
    assert JupyterHub(config=config).public_url == url
    settings = config.JupyterHub.tornado_settings
    secure = [settings.get(name, {}).get("secure") for name in ("cookie_options", "xsrf_cookie_kwargs")]
    assert secure == ([True, True] if url else [None, None])


def test_people_sign_in_as_the_values_say(load: Any) -> None:
    config = load(EVERYTHING | {"hub": EXTERNAL["hub"] | {"adminGroups": ["chiefs"], "reviewers": ["rev"]}})
    assert JupyterHub(config=config).authenticator_class.__name__ == "GenericOAuthenticator"
    assert config.GenericOAuthenticator.client_secret == "oidcsecret"
    roles = {one["name"]: one for one in config.JupyterHub.load_roles}
    assert roles["allocations-admin"]["users"] == ["ada"]
    assert roles["allocations-admin"]["groups"] == ["chiefs"]
    assert not any(roles["admin"][members] for members in ("users", "groups", "services"))
    assert roles["reviewer"]["users"] == ["rev"]
    assert config.JupyterHub.log_level == 30


@pytest.mark.parametrize("provider", ["openid.OpenIDConnect", "presets.Myst", "presets.CILogon", "presets.Orcid"])
def test_people_sign_in_by_a_provider(load: Any, provider: str) -> None:
    ours = {"client_id": "meridian", "oauth_callback_url": "https://science.example/hub/oauth_callback"}
    if provider.startswith("openid") or "Myst" in provider:
        ours["issuer"] = "https://sign-in.example"
    settings = {
        "JupyterHub": {"authenticator_class": f"hub.auth.{provider}Authenticator"},
        "OpenIDConnectAuthenticator": ours,
        "Authenticator": {"admin_users": ["ada"]},
    }
    hub = {"config": settings, "reviewers": ["rev"], "adminGroups": ["chiefs"]}
    config = load({"externalDatabase": EXTERNAL["externalDatabase"], "hub": hub}, OAUTH_CLIENT_SECRET="oidcsecret")
    authenticator = JupyterHub(config=config).authenticator_class(config=config)
    authenticator.require_settings()
    assert authenticator.client_secret == "oidcsecret"
    assert authenticator.post_logout_redirect_url == "https://science.example/hub/logout"
    assert authenticator.allocations_url == f"http://{FULL_NAME}-allocations:8000/services/allocations"
    assert authenticator.reserved_names == {"rev", "ada"}
    assert authenticator.enable_auth_state
    assert authenticator.manage_groups
    unknown = set(config.OpenIDConnectAuthenticator) - set(authenticator.trait_names())
    assert not unknown


def test_a_trial_has_passwords_of_its_own(load: Any) -> None:
    config = load(TRIAL)
    authenticator = JupyterHub(config=config).authenticator_class(config=config)
    assert authenticator.user_password.startswith("meridian_trial_password")
    assert authenticator.admin_password.startswith("meridian_trial_admin_password")
    assert authenticator.admin_users == set()

    async def signs_in(name: str, password: str) -> bool:
        model = await authenticator.get_authenticated_user(None, {"username": name, "password": password})
        assert model is None or model["admin"] is False
        return model is not None

    async def sign_ins() -> list[bool]:
        passwords = (authenticator.admin_password, authenticator.user_password, "")
        return [await signs_in(name, password) for name in ("ada", "Ada", "grace") for password in passwords]

    assert asyncio.run(sign_ins()) == [True, False, False, True, False, False, False, True, False]


class SaysSo(Authenticator):
    """A way to sign in that calls everybody the hub's administrator."""

    async def authenticate(self, handler: Any, data: Any) -> dict[str, Any]:
        return {"name": data["username"], "admin": True}

    def refresh_user(self, user: Any, handler: Any = None) -> Any:
        return {"name": user, "admin": True} if user == "ada" else user == "bob"


def test_no_way_to_sign_in_makes_the_hubs_own_administrator(load: Any) -> None:
    settings = {
        "JupyterHub": {"authenticator_class": f"{SaysSo.__module__}.SaysSo"},
        "SaysSo": {"admin_users": ["ada"], "allowed_users": ["bob"]},
    }
    config = load({"externalDatabase": EXTERNAL["externalDatabase"], "hub": {"config": settings}})
    authenticator = JupyterHub(config=config).authenticator_class(config=config)
    assert authenticator.admin_users == set()
    assert authenticator.allowed_users == {"bob"}

    async def sign_in(name: str) -> Any:
        return await authenticator.get_authenticated_user(None, {"username": name})

    assert [asyncio.run(sign_in(name))["admin"] for name in ("ada", "bob")] == [False, False]
    assert asyncio.run(sign_in("eve")) is None
    refreshed = [asyncio.run(authenticator.refresh_user(name)) for name in ("ada", "bob", "eve")]
    assert refreshed == [{"name": "ada", "admin": False}, True, False]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"GenericOAuthenticator": {"admin_groups": ["chiefs"]}}, "admin_groups is not for this platform"),
        ({"Authenticator": {"admin_users": "ada"}}, "admin_users must be a list of names"),
        ({"JupyterHub": {"load_roles": [{"name": "admin", "users": ["ada"]}]}}, "role admin, who could open anybody's"),
        ({"JupyterHub": {"authenticator_class": "no-such-way"}}, "is no way to sign in"),
        ({"JupyterHub": {"authenticator_class": "json.JSONDecoder"}}, "is no way to sign in"),
    ],
)
def test_what_would_make_the_hubs_own_administrators_ends_the_hub(
    load: Any, settings: dict[str, Any], sentence: str
) -> None:
    whole = {"JupyterHub": {"authenticator_class": "dummy"} | settings.get("JupyterHub", {})}
    with pytest.raises(SystemExit, match=sentence):
        load({"externalDatabase": EXTERNAL["externalDatabase"], "hub": {"config": settings | whole}})


def test_a_server_is_made_as_the_values_say(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubespawner.spawner.load_config", lambda **_: None)
    monkeypatch.setattr("kubespawner.spawner.shared_client", lambda *_: None)
    config = load(EVERYTHING)
    config.KubeSpawner.namespace = NAMESPACE
    spawner = KubeAllocationSpawner(config=config, _mock=True)
    assert spawner.image == "meridian-lab:0.1.0"
    assert spawner.environment["GREETING"] == "hello"
    assert spawner.image_pull_secrets == ["registry"]
    assert spawner.tier_priority_classes["entry"] == f"{FULL_NAME}-{NAMESPACE}-entry"
    assert spawner.storage_pvc_ensure
    assert spawner.storage_class is None
    assert spawner.allocations_url == f"http://{FULL_NAME}-allocations:8000/services/allocations"


def test_people_and_allocations_have_folders_of_what_all_share(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubespawner.spawner.load_config", lambda **_: None)
    monkeypatch.setattr("kubespawner.spawner.shared_client", lambda *_: None)
    config = load(STORAGE)
    config.KubeSpawner.namespace = NAMESPACE
    spawner = KubeAllocationSpawner(config=config, _mock=True)
    of_consortium = lease(person="Ann Example", tier="consortium")
    spawner.apply_lease(of_consortium)
    mounts = {mount.name: (mount.claim, mount.sub_path) for mount in spawner._mounts(of_consortium)}
    assert mounts == {
        "home": ("homes", label_value("Ann Example")),
        "scratch": ("scratch", "a1"),
        "shared": ("shared", "a1"),
    }
    environment = spawner.get_env()
    assert (environment["MERIDIAN_SCRATCH"], environment["MERIDIAN_SHARED"]) == ("/scratch", "/shared")
    spawner.apply_lease(lease(tier="entry"))
    assert "MERIDIAN_SHARED" not in spawner.get_env()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"MERIDIAN_HUB_CONFIG": "/nonexistent"}, "can't be read as JSON"),
        ({"MERIDIAN_REVIEWERS": "ada"}, "MERIDIAN_REVIEWERS must be a list of names"),
        ({"MERIDIAN_ADMIN_GROUPS": "[1]"}, "MERIDIAN_ADMIN_GROUPS must be a list of names"),
        ({"MERIDIAN_ALLOCATIONS_ROOT": ""}, "MERIDIAN_ALLOCATIONS_ROOT is not set"),
        ({"MERIDIAN_HUB_PORT": "eighty"}, "must be a port"),
    ],
)
def test_a_wrong_environment_ends_the_hub_with_one_sentence(load: Any, changes: dict[str, str], sentence: str) -> None:
    with pytest.raises(SystemExit, match=sentence) as refused:
        load(EXTERNAL, **changes)
    assert "oidcsecret" not in str(refused.value)


@pytest.mark.parametrize("content", ["[]", '{"KubeSpawner": "oidcsecret"}', "oidcsecret"])
def test_settings_that_are_none_are_refused_without_being_shown(load: Any, tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(SystemExit) as refused:
        load(EXTERNAL, MERIDIAN_HUB_CONFIG=str(path))
    assert "oidcsecret" not in str(refused.value)


def test_without_a_way_to_sign_in_the_hub_does_not_start(load: Any, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"KubeSpawner": {}}))
    with pytest.raises(SystemExit, match="authenticator_class is not set"):
        load(EXTERNAL, MERIDIAN_HUB_CONFIG=str(path))
