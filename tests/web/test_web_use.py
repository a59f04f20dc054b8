"""What was spent by member and by part, on its page and as files for spreadsheets."""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING

import pytest

from allocations.app import PREFIX
from allocations.db.idempotency import IdempotencyKey
from allocations.ids import random_id
from allocations.leases.models import LeaseKind, LeaseRequest
from allocations.ledger.service import Ledger
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole
from allocations.lifecycle.stores.allocations import AllocationStore
from allocations.reports.use import By
from allocations.storage.accrual import AccrualService
from allocations.storage.measures import MeasureService
from allocations.storage.models import Owner, StorageClass
from allocations.storage.quotas.backends import Found, Use
from allocations.storage.store import StorageStore
from allocations.web.figures import use_of

if TYPE_CHECKING:
    from tests.web.conftest import Site

CREDIT = 1_000_000
GB = 1_000_000_000
SMALL = 13
LEAD = Actor("lead")
FORMULA = "=HYPERLINK(1)"


@pytest.fixture
def tree(site: Site) -> tuple[str, str]:
    """A consortium and a part of it, on both of which something was charged."""
    for person in ("ann", "lead", "bob"):
        site.accept(person)
    root = site.open("consortium", "Deep fields", "lead")
    part = site.services.tree.divide(LEAD, root, name=FORMULA, microcredits=CREDIT, guaranteed=True, lead="lead")
    site.join(part, "ann")
    for number, (person, node) in enumerate([("ann", part), ("lead", root)]):
        request = LeaseRequest(node, person, LeaseKind.INTERACTIVE, "small", None, "")
        lease = site.services.leases.acquire(request, IdempotencyKey.for_request("spawner", f"k{number}", "t", {}))
        site.services.leases.start(lease.id)
        site.clock.at_ms += 100_000 * (2 - number)
        site.services.leases.settle(lease.id)
    return root, part


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def test_the_page_says_who_and_which_part_spent_what(site: Site, tree: tuple[str, str]) -> None:
    root, part = tree
    lead = site.browser("lead")
    assert f'href="{PREFIX}/allocations/{root}/use"' in lead.get(f"/allocations/{root}").text
    members = lead.get(f"/allocations/{root}/use").text
    found = re.findall(r'scope="row"><span[^>]*></span>(\w+)</th>\s*<td class="m-number">([\d.]+)</td>', members)
    assert found == [("ann", "0.0026"), ("lead", "0.0013")]
    assert "66.67 %" in members
    parts = lead.get(f"/allocations/{root}/use?by=part").text
    assert f'href="{PREFIX}/allocations/{part}/use"' in parts
    assert "itself" in parts
    assert 'aria-current="page">By sub-allocation' in parts


def test_the_picture_stacks_up_to_what_all_spent(site: Site, tree: tuple[str, str]) -> None:
    root, _part = tree
    site.clock.at_ms += 86_400_000
    use = site.services.reports.use(LEAD, root, By.MEMBER)
    # Far more is left than is spent: drawn to one scale, the areas would be a line.
    picture = use_of(use)
    assert (picture.granted, picture.most_microcredits) == ("", use.microcredits)
    use = use.model_copy(update={"granted_microcredits": [2 * use.microcredits] * 2})
    picture = use_of(use)
    assert picture.colours == {"ann": 1, "lead": 2}
    assert picture.most_microcredits == 2 * use.microcredits
    heights = [min(float(point.split(",")[1]) for point in area.points.split()) for area in picture.areas]
    top = 40 * (1 - use.microcredits / picture.most_microcredits)
    assert heights[1] == pytest.approx(top, abs=0.01)
    assert picture.granted.split()[-1] == "100.0,0.0"


def test_nothing_spent_is_said(site: Site) -> None:
    site.accept("lead")
    root = site.open("consortium", "Deep fields", "lead")
    assert "Nothing has been charged yet" in site.browser("lead").get(f"/allocations/{root}/use").text
    assert rows(site.browser("lead").get(f"/allocations/{root}/charges.csv").text) == []


def test_the_files_have_everything_and_no_formulas(site: Site, tree: tuple[str, str]) -> None:
    root, part = tree
    site.services.members.change(LEAD, part, "ann", cores_max=4, microcredits_max=5 * CREDIT)
    lead = site.browser("lead")
    charges = lead.get(f"/allocations/{root}/charges.csv")
    assert charges.headers["content-type"] == "text/csv; charset=utf-8"
    assert charges.headers["content-disposition"] == f'attachment; filename="{root}-charges.csv"'
    assert [
        (one["person"], one["allocation_name"], one["microcredits"], one["seconds"]) for one in rows(charges.text)
    ] == [
        ("lead", "Deep fields", str(SMALL * 100), "100"),
        ("ann", f"'{FORMULA}", str(SMALL * 200), "200"),
    ]
    used = rows(lead.get(f"/allocations/{root}/use.csv").text)
    assert [(one["person"], one["allocation"], one["microcredits"]) for one in used] == [
        ("ann", part, str(SMALL * 200)),
        ("lead", root, str(SMALL * 100)),
    ]
    members = {one["person"]: one for one in rows(lead.get(f"/allocations/{part}/members.csv").text)}
    assert (members["ann"]["role"], members["ann"]["cores_max"], members["ann"]["servers_max"]) == ("member", "4", "")
    assert members["ann"]["microcredits_max"] == str(5 * CREDIT)


def test_storage_is_charged_by_class_and_bytes_on_pages_and_in_files(site: Site, tree: tuple[str, str]) -> None:
    root, _part = tree
    store = StorageStore()
    measures = MeasureService(database=site.services.database, clock=site.clock, new_id=random_id, store=store)
    areas = [
        measures.open(StorageClass.SHARED, Owner(allocation_id=root), "shared"),
        measures.open(StorageClass.HOME, Owner(person="lead"), "lead"),
    ]
    measures.record(areas, Found(of={areas[0].id: Use(25 * GB, 1), areas[1].id: Use(4 * GB, 1)}), {})
    site.clock.at_ms += 86_400_000
    accrual = AccrualService(
        database=site.services.database,
        clock=site.clock,
        new_id=random_id,
        policy=site.services.policy,
        ledger=Ledger(),
        allocations=AllocationStore(),
        store=store,
        home_bytes={"consortium": 50 * GB},
    )
    assert (accrual.assess(), accrual.collect()) == (2, 290_000)
    lead = site.browser("lead")
    page = " ".join(re.sub(r"<[^>]*>", " ", lead.get(f"/allocations/{root}").text).split())
    assert "all together Storage, shared Deep fields 25 GB-days 0.25" in page
    assert "lead Storage, home Deep fields 4 GB-days 0.04" in page
    assert "Storage, home" in lead.get("/").text
    kept = [one for one in rows(lead.get(f"/allocations/{root}/charges.csv").text) if one["storage"]]
    assert [(one["person"], one["storage"], one["microcredits"], one["byte_days"]) for one in kept] == [
        ("", "shared", "250000", str(25 * GB)),
        ("lead", "home", "40000", str(4 * GB)),
    ]
    used = {one["person"]: one for one in rows(lead.get(f"/allocations/{root}/use.csv").text)}
    assert {name: one["storage_microcredits"] for name, one in used.items()} == {
        "ann": "0",
        "lead": "40000",
        "platform": "250000",
    }
    assert "storage of all together" in lead.get(f"/allocations/{root}/use").text
    admin = site.browser("admin")
    report = " ".join(re.sub(r"<[^>]*>", " ", admin.get("/admin/report").text).split())
    assert "Storage 0.29 credits for 0.029 TB-days" in report
    [in_file] = rows(admin.get("/admin/report/use.csv?step=month").text)
    assert (in_file["storage_credits"], in_file["storage_tb_days"]) == ("0.29", "0.029")


def test_members_get_their_own_charges_and_no_more_and_others_nothing(site: Site, tree: tuple[str, str]) -> None:
    root, part = tree
    site.join(part, "bob")
    ann, bob = site.browser("ann"), site.browser("bob")
    assert {one["person"] for one in rows(ann.get(f"/allocations/{part}/charges.csv").text)} == {"ann"}
    assert rows(bob.get(f"/allocations/{part}/charges.csv").text) == []
    for page in ("use", "use.csv", "members.csv"):
        assert ann.get(f"/allocations/{part}/{page}").status_code == 403
        assert ann.get(f"/allocations/{root}/{page}").status_code == 404
        assert site.browser().get(f"/allocations/{part}/{page}").status_code == 303
    assert ann.get(f"/allocations/{root}/charges.csv").status_code == 404
    page = ann.get(f"/allocations/{part}").text
    assert f"/allocations/{part}/charges.csv" in page
    assert f"/allocations/{part}/use" not in page
    assert "members.csv" not in page


def test_a_cap_in_credits_is_set_on_the_page(site: Site, tree: tuple[str, str]) -> None:
    _root, part = tree
    lead, path = site.browser("lead"), f"/allocations/{part}/member"
    place = {"person": "ann", "role": "member", "servers_max": "", "cores_max": "", "gpus_max": ""}
    assert lead.post(path, place | {"credits_max": "12.5"}).status_code == 303
    assert "12.50 credits in all" in lead.get(f"/allocations/{part}").text
    assert 'value="12.5"' in lead.get(f"{path}?person=ann").text
    wrong = lead.post(path, place | {"credits_max": "lots"})
    assert (wrong.status_code, "Credits: is not a number" in wrong.text, 'value="lots"' in wrong.text) == (
        422,
        True,
        True,
    )
    assert lead.post(path, place | {"credits_max": ""}).status_code == 303
    assert "credits in all" not in lead.get(f"/allocations/{part}").text


def test_an_invitation_carries_a_cap_in_credits(site: Site, tree: tuple[str, str]) -> None:
    _root, part = tree
    invited = {
        "person": "bob",
        "role": "member",
        "servers_max": "",
        "cores_max": "",
        "gpus_max": "",
        "credits_max": "3",
    }
    assert site.browser("lead").post(f"/allocations/{part}/invitations", invited).status_code == 303
    [offer] = site.services.members.invitations_on(LEAD, part)
    assert (offer.person, offer.microcredits_max, offer.role) == ("bob", 3 * CREDIT, MemberRole.MEMBER)
