"""Images: which version is started, what refuses it, what a record says of it for ever."""

from __future__ import annotations

import shutil
import tomllib
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from click.testing import CliRunner

from allocations.cli import main
from allocations.db.database import Database
from allocations.errors import (
    ImageEndedError,
    ImageNotAllowedError,
    InvalidImageReferenceError,
    PolicyError,
    UnknownImageError,
)
from allocations.factory import make_services
from allocations.leases.images import choose, offers_custom_images, reference_of, require_image
from allocations.leases.models import LeaseKind, LeaseRequest
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import OverrideLimits, OverrideSubject
from allocations.lifecycle.stores.audit import AuditFilter, AuditStore
from allocations.policy.images import CustomImages, Image, ImageRules, with_references
from allocations.policy.loader import load_policy
from allocations.policy.models import Policy, Shape
from allocations.settings import Settings
from tests.allocations.conftest import Bench, TestClock
from tests.allocations.test_runs import submit
from tests.fresh import POLICIES, shipped_policy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from allocations.leases.views import LeaseView, StartOptions

DAY_SECONDS = 86_400
OWN = "registry.example.org/team/lab:1.2"
# The clock of these tests begins on 15 January 2027.
CATALOGUE: list[dict[str, Any]] = [
    {
        "name": "base",
        "title": "Astronomy base",
        "default": True,
        "versions": [
            {
                "tag": "2026.11",
                "channel": "pinned",
                "released": "2026-11-20",
                "ends": "2027-02-01",
                "changes": ["Old."],
            },
            {
                "tag": "2027.01",
                "channel": "recommended",
                "released": "2027-01-10",
                "reference": "r.example.org/lab:2027.01",
            },
            {"tag": "w03", "channel": "weekly", "released": "2027-01-14", "ends": "2027-01-28"},
            {"tag": "2026.06", "channel": "pinned", "released": "2026-06-01", "ends": "2027-01-01"},
        ],
    },
    {"name": "pipeline", "title": "Roman pipeline", "reference": "r.example.org/pipeline:3", "tiers": ["consortium"]},
    {"name": "gpu", "title": "GPU lab", "sizes": ["gpu"], "default_for": ["gpu"], "reference": "r.example.org/gpu:1"},
]


def with_catalogue(images: list[dict[str, Any]], **changes: Any) -> Policy:
    """The shipped policy with other images, checked as a file would be."""
    content = shipped_policy().model_dump() | {"images": images} | changes
    return Policy.model_validate(content)


def policy_of_tests() -> Policy:
    return with_catalogue(
        CATALOGUE, image_rules=ImageRules(custom=CustomImages(registries=("registry.example.org/team",)))
    )


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    return shutil.copytree(POLICIES, tmp_path / "policies")


@pytest.fixture
def bench(database_url: str, tmp_path: Path) -> Iterator[Bench]:
    """The services of an installation with containers, and the catalogue above."""
    clock, database = TestClock(), Database(database_url)
    yield Bench(make_services(database, policy_of_tests(), tmp_path / "runs", clock, runs_containers=True), clock)
    database.dispose()


def start(bench: Bench, allocation: str, image: str | None, person: str = "ann", size: str = "small") -> LeaseView:
    asked = LeaseRequest(allocation, person, LeaseKind.INTERACTIVE, size, image, "")
    return bench.services.leases.acquire(asked, bench.key())


def with_gpu(bench: Bench) -> str:
    """A consortium of lead's that may start GPUs."""
    root = bench.consortium()
    limits = OverrideLimits(gpus=1, servers_per_person=9, largest=(Shape(cores=8, memory_gib=32, gpus=1),))
    bench.services.overrides.grant(Actor("admin", admin=True), OverrideSubject.ALLOCATION, root, limits, "A test.", 9)
    return root


def test_an_image_alone_is_its_recommended_version_and_the_record_names_it(bench: Bench) -> None:
    entry = bench.accept("ann")
    lease = start(bench, entry, None)
    assert (lease.image, lease.image_reference) == ("base:2027.01", "r.example.org/lab:2027.01")
    bench.services.leases.settle(lease.id, None)
    assert start(bench, entry, "base").image == "base:2027.01"
    run = submit(bench, entry, image="base:w03")
    assert run.image == "base:w03"
    assert submit(bench, entry).image == "base:2027.01"


def test_past_its_end_a_version_is_not_started_anew_and_the_denial_says_what_is(bench: Bench) -> None:
    entry = bench.accept("ann")
    with pytest.raises(ImageEndedError) as denied:
        start(bench, entry, "base:2026.06")
    assert denied.value.detail == ("Astronomy base 2026.06 has ended: since 2027-01-01 it is not started any more.")
    assert denied.value.remedy == "Choose base:2027.01, which is recommended."
    lease = start(bench, entry, "base:2026.11")
    bench.services.leases.start(lease.id, None)
    # To the last second of the day before its end, and on that day no more; what runs goes on.
    last = datetime(2027, 2, 1, tzinfo=UTC).timestamp() * 1000 - 1
    bench.clock.at_ms = round(last)
    choose_day(bench, "base:2026.11")
    bench.clock.at_ms += 1
    with pytest.raises(ImageEndedError):
        choose_day(bench, "base:2026.11")
    # It is still shown as what it was, with what it runs.
    assert bench.services.leases.get(lease.id).image == "base:2026.11"


def choose_day(bench: Bench, image: str) -> None:
    """Ask for an image on an allocation of a new person."""
    start(bench, bench.accept(f"p{bench.clock.at_ms}"), image, person=f"p{bench.clock.at_ms}")


def test_a_server_whose_image_ends_is_renewed(bench: Bench) -> None:
    entry = bench.accept("ann")
    bench.clock.at_ms = round(datetime(2027, 1, 31, 23, 55, tzinfo=UTC).timestamp() * 1000)
    lease = start(bench, entry, "base:2026.11")
    bench.services.leases.start(lease.id, None)
    bench.clock.pass_seconds(600)
    assert bench.services.leases.renew(lease.id).ends_at > lease.ends_at


def test_a_run_that_was_queued_in_time_keeps_its_version(bench: Bench) -> None:
    entry = bench.accept("ann")
    bench.clock.at_ms = round(datetime(2027, 1, 31, 12, tzinfo=UTC).timestamp() * 1000)
    run = submit(bench, entry, image="base:2026.11")
    bench.clock.pass_seconds(DAY_SECONDS)
    [admitted] = bench.services.runs.claim("batch", 5)
    assert (admitted.id, admitted.image) == (run.id, "base:2026.11")
    with pytest.raises(ImageEndedError):
        submit(bench, entry, image="base:2026.11")


def test_what_waits_keeps_its_version_when_another_is_recommended(
    bench: Bench, database_url: str, tmp_path: Path
) -> None:
    run = submit(bench, bench.accept("ann"))
    changed = [dict(CATALOGUE[0]), *CATALOGUE[1:]]
    changed[0]["versions"] = [
        one | {"channel": "pinned" if one["channel"] == "recommended" else one["channel"]}
        for one in CATALOGUE[0]["versions"]
    ] + [{"tag": "2027.02", "channel": "recommended", "released": "2027-02-01"}]
    database = Database(database_url)
    services = make_services(database, with_catalogue(changed), tmp_path / "runs", bench.clock, runs_containers=True)
    [admitted] = services.runs.claim("batch", 5)
    assert (admitted.id, admitted.image) == (run.id, "base:2027.01")
    assert services.leases.get(str(admitted.lease)).image_reference == "r.example.org/lab:2027.01"
    database.dispose()


def test_a_run_that_was_queued_by_the_images_name_alone_is_recorded_with_its_version(bench: Bench) -> None:
    run = submit(bench, bench.accept("ann"))
    with bench.services.database.write() as connection:
        bench.services.runs.runs.change(connection, run.id, image="base")
    [admitted] = bench.services.runs.claim("batch", 5)
    assert admitted.image == "base:2027.01"
    assert bench.services.runs.get("ann", run.id).image == "base:2027.01"


@pytest.mark.parametrize("asked", ["nothing", "base:nothing", "base:", "pipeline:1"])
def test_what_the_catalogue_lacks_is_refused_with_what_it_has(bench: Bench, asked: str) -> None:
    with pytest.raises((UnknownImageError, InvalidImageReferenceError)) as denied:
        start(bench, bench.accept("ann"), asked)
    assert "base" in denied.value.remedy or "pipeline" in denied.value.remedy or "catalogue" in denied.value.remedy


def test_an_image_is_started_with_its_sizes_and_by_its_tiers_only(bench: Bench) -> None:
    entry, rich = bench.accept("ann"), with_gpu(bench)
    with pytest.raises(ImageNotAllowedError, match="not for the Entry tier"):
        start(bench, entry, "pipeline")
    assert start(bench, rich, "pipeline", "lead").image_reference == "r.example.org/pipeline:3"
    with pytest.raises(ImageNotAllowedError, match="not started with the size Small") as denied:
        start(bench, rich, "gpu", "lead")
    assert denied.value.remedy == "Choose another image, or one of these sizes: GPU."
    assert start(bench, rich, None, "lead", "gpu").image == "gpu"


def test_an_image_of_ones_own_is_recorded_everywhere(bench: Bench) -> None:
    rich = bench.consortium()
    lease = start(bench, rich, OWN, "lead")
    assert (lease.image, lease.image_reference) == (OWN, OWN)
    assert submit(bench, rich, "lead", image=OWN).image == OWN
    with bench.services.database.read() as connection:
        [entry] = AuditStore().entries(connection, limit=5, wanted=AuditFilter(action="image.custom"))
    assert (entry.actor, entry.subject) == ("lead", rich)
    assert OWN in entry.details
    assert lease.id in entry.details


def test_an_image_of_ones_own_needs_a_tier_a_place_and_containers(
    bench: Bench, database_url: str, tmp_path: Path
) -> None:
    entry, rich = bench.accept("ann"), bench.consortium()
    with pytest.raises(ImageNotAllowedError, match="Entry tier does not allow") as denied:
        start(bench, entry, OWN)
    assert denied.value.remedy == "Choose an image of the catalogue, or an allocation of the tier Consortium."
    with pytest.raises(ImageNotAllowedError, match="may not come from this registry") as denied:
        start(bench, rich, "registry.example.org/others/lab:1", "lead")
    assert "registry.example.org/team" in denied.value.remedy
    with pytest.raises(InvalidImageReferenceError, match="neither a tag nor a digest"):
        start(bench, rich, "registry.example.org/team/lab", "lead")
    database = Database(database_url)
    local = make_services(database, policy_of_tests(), tmp_path / "runs", bench.clock)
    request = LeaseRequest(rich, "lead", LeaseKind.INTERACTIVE, "small", OWN, "")
    with pytest.raises(ImageNotAllowedError, match="no containers"):
        local.leases.acquire(request, bench.key())
    assert local.offers.start_options("lead").custom_images is None
    database.dispose()


def test_only_what_can_be_had_is_offered(bench: Bench) -> None:
    entry = bench.accept("ann")
    options = bench.services.offers.start_options("ann")
    assert [image.name for image in options.images] == ["base"]
    assert offered(options) == [
        ("base", "recommended", False),
        ("base:w03", "weekly", True),
        ("base:2026.11", "pinned", True),
    ]
    assert options.custom_images is None
    assert not options.allocations[0].custom_images
    with_gpu(bench)
    of_lead = bench.services.offers.start_options("lead")
    assert [image.name for image in of_lead.images] == ["base", "pipeline", "gpu"]
    assert of_lead.custom_images is not None
    assert of_lead.custom_images.registries == ["registry.example.org/team"]
    # A start that is under way takes the only place: what could be had later is still there to read.
    start(bench, entry, None)
    assert [image.name for image in bench.services.offers.start_options("ann").images] == ["base"]


def offered(options: StartOptions) -> list[tuple[str, str, bool]]:
    return [(one.choice, one.channel, one.ends_soon) for image in options.images for one in image.versions]


def test_the_catalogue_shows_what_has_ended_too(bench: Bench) -> None:
    catalogue = bench.services.offers.catalogue()
    assert catalogue.containers
    assert [(one.tag, one.ended) for one in catalogue.images[0].versions] == [
        ("2027.01", False),
        ("w03", False),
        ("2026.11", False),
        ("2026.06", True),
    ]


def test_an_installation_names_the_container_images_that_the_policy_leaves_open() -> None:
    policy = with_references(policy_of_tests(), {"base": "localhost:5000/our/lab:9"})
    of_base = policy.image("base")
    assert of_base.version("w03").reference == "localhost:5000/our/lab:w03"
    assert of_base.version("2027.01").reference == "r.example.org/lab:2027.01", "the policy's own comes first"
    # Without names for them: what the policy itself names is left, and of others nothing that could not start.
    bare = with_catalogue([CATALOGUE[0], {"name": "pipeline", "title": "Roman pipeline"}])
    left = with_references(bare, {})
    assert [(image.name, [one.tag for one in image.versions]) for image in left.images] == [("base", ["2027.01"])]
    assert with_references(bare, {"pipeline": "r/p:1"}).image("pipeline").reference == "r/p:1"
    # The shipped catalogue knows nothing of how an installation tags what it has built.
    shipped = with_references(
        with_catalogue([base(GOOD, version("0", "pinned"))]), {"base": "r/lab:9"}, is_shipped=True
    )
    assert [one.reference for one in shipped.image("base").versions] == ["r/lab:9", "r/lab:0"]
    assert reference_of(left, "base") == "r.example.org/lab:2027.01"
    assert reference_of(left, "base:w03") is None
    assert reference_of(left, OWN) == OWN


@pytest.mark.parametrize("text", ["base", '{"base": 1}', '{"base": ""}', "[]"])
def test_names_of_images_that_are_none_are_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MERIDIAN_DATABASE_URL", "sqlite://")
    monkeypatch.setenv("MERIDIAN_RUN_STORE", "runs")
    monkeypatch.setenv("MERIDIAN_IMAGES", text)
    with pytest.raises(Exception, match="MERIDIAN_IMAGES"):
        Settings.from_environment()


def version(tag: str, channel: str, released: str = "2027-01-01", **more: Any) -> dict[str, Any]:
    return {"tag": tag, "channel": channel, "released": released} | more


def base(*versions: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": "base", "title": "Base", "default": True, "versions": list(versions)} | more


GOOD = version("1", "recommended")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([base(version("1", "weekly"))], "exactly one version must be recommended, not 0"),
        ([base(GOOD, version("2", "recommended"))], "exactly one version must be recommended, not 2"),
        ([base(GOOD, version("1", "weekly"))], "the version '1' stands more than once"),
        ([base(version("1", "recommended", ends="2027-01-01"))], "ends must come after released"),
        ([base(GOOD, reference="r.example.org/lab:1")], "give reference for each version"),
        ([base(GOOD, default_for=["huge"])], "default_for: there is no size 'huge'"),
        ([base(GOOD), {"name": "x", "title": "X", "sizes": ["huge"]}], "sizes: there is no size 'huge'"),
        ([base(GOOD), {"name": "x", "title": "X", "tiers": ["gold"]}], "tiers: there is no tier 'gold'"),
        ([base(GOOD, sizes=["gpu"])], "the default image is for all sizes and tiers"),
        ([base(GOOD), {"name": "x", "title": "X", "sizes": ["gpu"], "default_for": ["small"]}], "not among its sizes"),
        (
            [base(GOOD, default_for=["gpu"]), {"name": "x", "title": "X", "default_for": ["gpu"]}],
            "starts 'base' already",
        ),
        ([base(GOOD), {"name": "x", "title": "X", "default_for": ["gpu"], "tiers": ["entry"]}], "leave tiers out"),
        ([base(version("a b", "recommended"))], "tag"),
        ([base(version("1", "nightly"))], "channel"),
    ],
)
def test_a_mistake_in_the_catalogue_is_named(policies: Path, images: list[dict[str, Any]], message: str) -> None:
    (policies / "images.yaml").write_text(
        yaml.safe_dump({"images": images, "image_rules": {"custom": {"registries": ["quay.io"]}}})
    )
    with pytest.raises(PolicyError) as raised:
        load_policy(policies)
    assert message in raised.value.detail
    assert "images" in raised.value.detail


@pytest.mark.parametrize("registries", [[], ["*"], ["https://quay.io"], ["quay.io/"]])
def test_an_allow_list_that_is_none_is_refused(policies: Path, registries: list[str]) -> None:
    rules = {"custom": {"registries": registries}}
    (policies / "images.yaml").write_text(yaml.safe_dump({"images": [base(GOOD)], "image_rules": rules}))
    with pytest.raises(PolicyError, match=r"image_rules\.custom\.registries"):
        load_policy(policies)


def test_without_an_allow_list_no_tier_has_images_of_its_own(policies: Path) -> None:
    (policies / "images.yaml").write_text(yaml.safe_dump({"images": [base(GOOD)]}))
    policy = load_policy(policies)
    tier = policy.tier("consortium")
    assert tier.custom_images
    chosen = choose(policy, OWN, policy.size("small"))
    with pytest.raises(ImageNotAllowedError) as denied:
        require_image(policy, chosen, tier, policy.size("small"), date(2027, 1, 1), runs_containers=True)
    assert denied.value.remedy == "Choose an image of the catalogue."
    assert not offers_custom_images(policy, tier, runs_containers=True)


def test_the_check_finds_a_recommendation_that_has_ended_by_a_day(policies: Path) -> None:
    ending = base(version("1", "recommended", ends="2027-03-01"))
    rules = {"custom": {"registries": ["quay.io"]}}
    (policies / "images.yaml").write_text(yaml.safe_dump({"images": [ending], "image_rules": rules}))

    def check(day: str) -> Any:
        return CliRunner().invoke(main, ["policy", "check", str(policies), "--on", day])

    assert check("2027-02-28").exit_code == 0
    ended = check("2027-03-01")
    assert ended.exit_code == 1
    assert "the recommended version '1' has ended on 2027-03-01" in ended.output


def test_the_short_form_of_one_image_is_as_it_was() -> None:
    policy = with_catalogue([{"name": "lab", "title": "Lab", "default": True, "reference": "r.example.org/lab:1"}])
    chosen = choose(policy, None, policy.size("small"))
    assert (chosen.recorded, chosen.reference, chosen.title) == ("lab", "r.example.org/lab:1", "Lab")
    with pytest.raises(UnknownImageError) as denied:
        choose(policy, "lab:1", policy.size("small"))
    assert denied.value.remedy == "Choose 'lab' without a version."


def test_the_shipped_catalogue_recommends_what_a_release_builds() -> None:
    version_of_project = tomllib.loads((POLICIES.parent / "pyproject.toml").read_text())["project"]["version"]
    recommended = {image.name: image.recommended for image in shipped_policy().images}
    assert {one.tag for one in recommended.values() if one} == {version_of_project}
    assert all(recommended.values())


def image_of(changes: dict[str, Any]) -> Image:
    return Image.model_validate(base(GOOD) | changes)


def test_versions_are_read_recommended_first_and_the_newest_of_each() -> None:
    image = image_of(
        {"versions": [version("p", "pinned"), version("w1", "weekly"), version("w2", "weekly", "2027-01-08"), GOOD]}
    )
    assert [one.tag for one in image.in_order()] == ["1", "w2", "w1", "p"]
    assert image.in_order()[0].released == date(2027, 1, 1)
