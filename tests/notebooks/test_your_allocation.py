"""The notebook of balances, against a real service that has charged for servers."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from allocations.api.identity import HubIdentities, Identity, Scope
from allocations.app import PREFIX
from tests.allocations.conftest import Bench, make_bench
from tests.fresh import fresh_sqlite
from tests.fresh_app import fresh_app
from tests.notebooks.notebook_runs import run
from tests.serving import serving

pytestmark = pytest.mark.slow

OF_A_SERVER = frozenset({Scope.READ, Scope.RUN})
"""What the token of a person's server may do."""


class StubIdentities(HubIdentities):
    """Takes a token for the person's name, with a server's scopes; the real hub is asked in the end-to-end tests."""

    async def from_token(self, token: str, session_id: str = "") -> Identity | None:
        del session_id
        return Identity(token, OF_A_SERVER) if token in {"ann", "bob"} else None


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = make_bench(fresh_sqlite(tmp_path), tmp_path / "runs")
    yield made
    made.services.database.dispose()


@pytest.fixture
def _platform(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The service on a port; the environment is that of ann's server."""
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "x")
    monkeypatch.setenv("JUPYTERHUB_API_URL", "http://127.0.0.1:1/hub/api")
    monkeypatch.setenv("JUPYTERHUB_CLIENT_ID", "service-allocations")
    monkeypatch.setenv("JUPYTERHUB_OAUTH_CALLBACK_URL", f"{PREFIX}/oauth_callback")
    with serving(fresh_app(bench.services, StubIdentities("secret", PREFIX))) as url:
        monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "ann")
        monkeypatch.setenv("MERIDIAN_URL", url)
        monkeypatch.delenv("MERIDIAN_TOKEN", raising=False)
        yield


@pytest.mark.usefixtures("_platform")
def test_it_shows_what_the_ledger_has(bench: Bench, tmp_path: Path) -> None:
    entry = bench.accept("ann")
    # Two of one name, which are drawn beside each other all the same.
    bench.consortium("ann")
    bench.consortium("ann")
    for hours in (2, 9, 1, 5):
        lease = bench.acquire(entry)
        bench.services.leases.start(lease.id)
        bench.clock.pass_seconds(hours * 3600)
        bench.services.leases.settle(lease.id)
        bench.clock.pass_seconds(2 * 86_400)
    bench.acquire(entry)
    # The agreement of another person is none of hers.
    bench.accept("bob")

    executed = run("your-allocation", tmp_path)

    expected = {one.id: one for one in bench.services.reports.allocations_of("ann")}
    shown = pd.read_csv(tmp_path / "balances.csv").set_index("id")
    assert set(shown.index) == set(expected)
    assert len(expected) == 3
    for one in expected.values():
        assert shown.loc[one.id, "available"] == pytest.approx(one.available_microcredits / 1e6)
        assert shown.loc[one.id, "held"] == pytest.approx(one.held_microcredits / 1e6)
    charged = expected[entry].posted_microcredits / 1e6
    assert executed.recorded["charged_credits"] == pytest.approx(charged)
    assert charged > 0
    assert shown.loc[entry, "held"] > 0
    assert executed.images == 2
    assert "0 runs" in executed.printed
