"""What mails look like: two forms of one content from the policy's templates, which can say and load nothing else."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from allocations.cli import main
from allocations.errors import PolicyError
from allocations.lifecycle.models import MemberRole
from allocations.outbox import Notice, NoticeKind
from allocations.policy.loader import load_policy
from tests.allocations.test_mail import end_of, mailer_of, news, server, text_of
from tests.allocations.test_notices import ADMIN, queue, research
from tests.fresh import POLICIES

if TYPE_CHECKING:
    from pathlib import Path

    from tests.allocations.conftest import Bench
    from tests.allocations.test_mail import Server

__all__ = ["server"]

# As long as addresses are: beyond 78 characters a header is usually folded.
PAGES = "https://science-platform.observatory.example/services/allocations"
HOSTILE = '<img src="https://evil.example/x.png"> {{ person }} {% include "x" %} </p><script>alert(1)</script>'


class Reader(HTMLParser):
    """Reads HTML as the text form is written: an address stands after the words of its link."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self._href = ""
        self._left_out = 0
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._left_out += tag in {"style", "title"}
        self._href = dict(attrs).get("href") or "" if tag == "a" else self._href

    def handle_endtag(self, tag: str) -> None:
        self._left_out -= tag in {"style", "title"}
        if tag == "a":
            self.words.append(f": {self._href}")

    def handle_data(self, data: str) -> None:
        if not self._left_out:
            self.words.append(data)


def squeezed(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("pages_url", ["", PAGES])
def test_both_forms_say_the_same(bench: Bench, server: Server, pages_url: str) -> None:
    end_of(bench, 7)
    bench.services.members.invite(ADMIN, research(bench, "lead", HOSTILE), "ann", MemberRole.MEMBER)
    queue(bench, news("ann"))
    assert mailer_of(bench, server.transport(), pages_url).deliver() == 1
    for _, mail in server.received():
        text, html = text_of(mail).replace("\r\n", "\n"), text_of(mail, "html")
        assert squeezed(text.replace("\n-- \n", "")) == squeezed("".join(Reader(html).words))
        assert "\n\n\n" not in text
        assert (PAGES in html) == bool(pages_url)
        assert "<script" not in html
        assert "<img" not in html


def test_a_mail_leads_to_what_it_is_about(bench: Bench, server: Server) -> None:
    allocation = end_of(bench, 7)
    mailer_of(bench, server.transport(), PAGES).deliver()
    [(_, mail)] = server.received()
    assert f'href="{PAGES}/allocations/{allocation}"' in text_of(mail, "html")
    assert f"Open the allocation: {PAGES}/allocations/{allocation}" in text_of(mail)
    assert f"Choose what is mailed: {PAGES}/notices/settings" in text_of(mail)


def test_every_kind_can_be_mailed(bench: Bench) -> None:
    composer = mailer_of(bench, transport=None, pages_url=PAGES).composer  # type: ignore[arg-type]  # nothing is sent
    queue(bench, *(Notice("ann", kind, "gone", "1", {"name": HOSTILE, "why": HOSTILE}) for kind in NoticeKind))
    with bench.services.database.write() as connection:
        pending = bench.services.inbox.notices.lock_waiting(connection, "ann")
        composed = composer.compose(connection, "ann", pending, 0, 0)
    assert {notice.kind for notice in pending} == set(NoticeKind)
    assert "<script" not in composed.html
    assert "{% include" in composed.text, "what people write is text, not a template"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("mail.html", "{{ closing }}", "{{ closign }}", "mail.html: unknown variable closign"),
        ("mail.txt", "{{ notice.title }}", "{{ notice.titel }}", "mail.txt, line 5: unknown attribute titel"),
        ("mail.txt", "{{ closing }}", "{% if person == 'eve' %}{{ nobody }}{% endif %}", "unknown variable nobody"),
        ("mail.txt", "{{ closing }}", "{{ person.__class__ }}", "unknown attribute __class__"),
        ("mail.txt", "{{ closing }}", "{{ person['format'] }}", "only a number may stand in brackets"),
        ("mail.txt", "{{ closing }}", "{{ person.title() }}", "a mail's template calls"),
        ("mail.txt", "{{ closing }}", "{{ notices[1].title }}", "mail.txt: "),
        ("mail.txt", "{% endfor %}", "", "mail.txt, line "),
        ("mail.html", "{{ closing }}", "{{ closing | safe }}", "unknown filter safe"),
        ("mail.html", "{{ closing }}", "{% autoescape false %}{{ closing }}{% endautoescape %}", "turns escaping off"),
        ("mail.html", "{{ closing }}", "{% include 'tiers.yaml' %}", "loads another template"),
        ("mail.html", "{{ closing }}", '<img src="https://a.example/logo.png">', "src of <img> loads"),
        ("mail.html", "{{ closing }}", "<script>1</script>", "<script> loads or runs"),
        ("mail.html", "{{ closing }}", '<p style="background: url(https://a.example)">', "style of <p> loads"),
        ("mail.html", ":root {", "@import 'https://a.example/a.css'; :root {", "<style> loads"),
    ],
)
def test_a_mistake_in_a_template_is_named(tmp_path: Path, file: str, old: str, new: str, message: str) -> None:
    directory = shutil.copytree(POLICIES, tmp_path / "policies")
    content = (directory / file).read_text()
    assert old in content
    (directory / file).write_text(content.replace(old, new, 1))
    result = CliRunner().invoke(main, ["policy", "check", str(directory)])
    assert result.exit_code == 1
    assert message in result.output


def test_a_picture_may_stand_within_a_mail_and_a_template_is_text(tmp_path: Path) -> None:
    directory = shutil.copytree(POLICIES, tmp_path / "policies")
    file = directory / "mail.html"
    before = load_policy(directory).version
    file.write_text(
        file.read_text().replace("{{ closing }}", '<img alt="" src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">')
    )
    assert load_policy(directory).version != before
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(PolicyError, match="is not text in UTF-8"):
        load_policy(directory)


def test_one_click_is_for_https_only(bench: Bench, server: Server) -> None:
    queue(bench, news("ann"))
    assert mailer_of(bench, server.transport(), "http://127.0.0.1:8000/services/allocations").deliver() == 1
    [(_, mail)] = server.received()
    assert mail["List-Unsubscribe"].startswith("<http://127.0.0.1:8000/services/allocations/unsubscribe/")
    assert mail["List-Unsubscribe-Post"] is None


def test_who_can_turn_a_mail_off_can_do_so_by_its_headers(bench: Bench, server: Server) -> None:
    queue(bench, news("ann"), Notice("bob", NoticeKind.MEMBER_REMOVED, "gone", "1"))
    bench.services.lifecycle.suspend(ADMIN, research(bench, "eve"), "The hardware moves")
    assert mailer_of(bench, server.transport(), PAGES).deliver() == 3
    assert all(f"List-Unsubscribe: <{PAGES}/unsubscribe/" in raw for raw in server.raw() if "eve@" not in raw)
    mails = {recipients[0].split("@")[0]: mail for recipients, mail in server.received()}
    links = {}
    for person in ("ann", "bob"):
        assert mails[person]["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
        found = re.fullmatch(rf"<{PAGES}/unsubscribe/([A-Za-z0-9_-]{{32}})>", mails[person]["List-Unsubscribe"])
        assert found
        links[person] = found[1]
        assert found[1] in text_of(mails[person])
        assert "always mailed" not in text_of(mails[person])
    assert links["ann"] != links["bob"]
    assert mails["eve"]["List-Unsubscribe"] is None
    assert "always mailed" in text_of(mails["eve"])
    bench.services.unsubscribing.unsubscribe(links["ann"])
    queue(bench, news("ann", 2), news("bob", 2))
    bench.clock.pass_seconds(86_400)
    assert mailer_of(bench, server.transport(), PAGES).deliver() == 1
    assert server.received()[-1][0] == ["bob@people.example"]
    assert links["bob"] in server.received()[-1][1]["List-Unsubscribe"], "earlier mails' links keep working"
