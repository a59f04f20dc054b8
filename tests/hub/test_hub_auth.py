"""Local sign-in: one private file, in local mode only, slow for those who guess."""

from __future__ import annotations

import asyncio
import json

import pytest
from tornado.web import HTTPError

from hub.auth.local import AccountsFileError, FailureLimiter, LocalAccountsAuthenticator, read_accounts

ACCOUNTS = {
    "accounts": [
        {"name": "ada", "password": "correct horse", "roles": ["researcher"]},
        {"name": "root", "password": "battery staple", "roles": ["admin", "reviewer"]},
    ]
}


@pytest.fixture
def accounts_file(tmp_path, monkeypatch):
    path = tmp_path / "accounts.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps(ACCOUNTS))
    monkeypatch.setenv("MERIDIAN_MODE", "local")
    monkeypatch.setenv("MERIDIAN_ACCOUNTS_FILE", str(path))
    return path


def sign_in(authenticator, name, password):
    return asyncio.run(authenticator.authenticate(None, {"username": name, "password": password}))


def test_a_right_password_lets_in_and_says_nothing_of_roles(accounts_file):
    authenticator = LocalAccountsAuthenticator()
    assert sign_in(authenticator, "ada", "correct horse") == {"name": "ada"}
    assert sign_in(authenticator, "root", "battery staple") == {"name": "root"}


@pytest.mark.parametrize(("name", "password"), [("ada", "wrong"), ("ada", ""), ("nobody", "no such account"), ("", "")])
def test_anything_else_does_not(accounts_file, name, password):
    assert sign_in(LocalAccountsAuthenticator(), name, password) is None


def test_an_account_taken_out_of_the_file_has_to_sign_in_again(accounts_file):
    class User:
        name = "ada"

    authenticator = LocalAccountsAuthenticator()
    assert asyncio.run(authenticator.refresh_user(User())) == {"name": "ada"}
    accounts_file.write_text('{"accounts": []}')
    assert asyncio.run(authenticator.refresh_user(User())) is False


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_file_that_others_can_read_is_refused(accounts_file, mode):
    accounts_file.chmod(mode)
    with pytest.raises(AccountsFileError, match="chmod 600"):
        read_accounts(accounts_file)


def test_a_malformed_file_is_refused_without_showing_passwords(accounts_file):
    accounts_file.write_text('{"accounts": [{"name": "../x", "password": "hunter2hunter2", "roles": ["king"]}]}')
    with pytest.raises(AccountsFileError) as refused:
        read_accounts(accounts_file)
    assert "accounts.0.name" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_it_works_in_local_mode_only(accounts_file, monkeypatch):
    monkeypatch.setenv("MERIDIAN_MODE", "kubernetes")
    with pytest.raises(RuntimeError, match="local mode only"):
        LocalAccountsAuthenticator()


def test_guessing_is_slowed_down_and_right_passwords_wait_too(accounts_file):
    authenticator = LocalAccountsAuthenticator()
    for _ in range(5):
        assert sign_in(authenticator, "ada", "wrong") is None
    with pytest.raises(HTTPError) as refused:
        sign_in(authenticator, "ada", "correct horse")
    assert refused.value.status_code == 429
    assert sign_in(authenticator, "root", "battery staple") is not None


def test_failures_are_forgotten_after_a_minute():
    now = [0.0]
    limiter = FailureLimiter(clock=lambda: now[0])
    for _ in range(5):
        limiter.failed("ada")
    assert limiter.blocked("ada")
    now[0] = 60.1
    assert not limiter.blocked("ada")
