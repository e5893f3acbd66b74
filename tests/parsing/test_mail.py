"""Mails: head lines and body are the text; attachments are members, with their bytes as they were."""

from __future__ import annotations

from collections.abc import Callable
from email.message import EmailMessage

import pytest

from ragline.errors import DocumentRejected, Reason
from ragline.types import Member, Parsed
from tests.parsing import ole

ParseHere = Callable[..., Parsed]
CSV = b"pond,herons\nNorth,4\n"


def mail(**heads: str) -> EmailMessage:
    message = EmailMessage()
    for name, value in {"From": "Ann <ann@example.org>", "Subject": "Größe der Vögel", **heads}.items():
        message[name] = value
    return message


def test_heads_body_and_attachments(parse: ParseHere) -> None:
    message = mail(To="bob@example.org", Date="Mon, 1 Jun 2026 10:00:00 +0000")
    message.set_content("Herons wait.\n\n  Indented stays.\n")
    message.add_attachment(CSV, maintype="text", subtype="csv", filename="Zählung.csv")
    parsed = parse(message.as_bytes(), "a.eml")
    assert parsed.title == "Größe der Vögel"
    assert parsed.text.startswith("From: Ann <ann@example.org>\nTo: bob@example.org\nDate: Mon, 01 Jun 2026")
    assert parsed.text.endswith("Herons wait.\n\n  Indented stays.")
    assert parsed.members == (Member("Zählung.csv", CSV),)


def test_the_alternative_that_says_more_is_the_body(parse: ParseHere) -> None:
    page = "<h1>Herons</h1><table><tr><th>Pond</th><th>Count</th></tr><tr><td>North</td><td>4</td></tr></table>"
    both = mail()
    both.set_content("Herons: Pond North, count 4")
    both.add_alternative(page, subtype="html")
    assert "Pond: North; Count: 4" in parse(both.as_bytes(), "a.eml").text
    stub = mail()
    stub.set_content("All that there is to say of herons.")
    stub.add_alternative("<p>Open in a browser.</p>", subtype="html")
    assert parse(stub.as_bytes(), "a.eml").text.endswith("All that there is to say of herons.")


def test_pictures_of_the_body_and_signatures_are_no_documents(parse: ParseHere) -> None:
    message = mail()
    message.set_content("<p>Hello <img src='cid:logo'></p>", subtype="html")
    message.add_related(b"\x89PNG", maintype="image", subtype="png", cid="<logo>")
    message.make_mixed()
    message.add_attachment(b"0", maintype="application", subtype="pgp-signature", filename="signature.asc")
    message.add_attachment(b"\x89PNG", maintype="image", subtype="png", filename="scan.png")
    assert [member.name for member in parse(message.as_bytes(), "a.eml").members] == ["scan.png"]


def test_mails_nested_fifty_deep_are_opened_one_at_a_time(parse: ParseHere) -> None:
    message = mail(Subject="Level 50")
    message.set_content("The innermost.")
    for level in range(49, 0, -1):
        outer = mail(Subject=f"Level {level}")
        outer.set_content(f"This is level {level}.")
        outer.add_attachment(message)
        message = outer
    data = message.as_bytes()
    for level in range(1, 51):
        parsed = parse(data, "a.eml")
        assert parsed.title == f"Level {level}"
        assert len(parsed.members) == (level < 50)
        data = parsed.members[0].data if parsed.members else b""


def test_odd_mails(parse: ParseHere) -> None:
    wide = "From: a@example.org\nSubject: Wide\n\nHerons wait.".encode("utf-16")
    assert parse(wide, "a.eml").text.endswith("Herons wait.")
    unknown = b"Subject: =?no-such-code?Q?H=E9ron?=\nContent-Type: text/plain; charset=no-such-code\n\nH\xe9ron."
    assert "Héron." in parse(unknown, "a.eml").text
    for data, reason in (
        (b"no head lines at all", Reason.DAMAGED),
        (b'Subject: x\nContent-Type: multipart/encrypted; boundary="b"\n\n--b\n\nx\n--b--', Reason.ENCRYPTED),
    ):
        with pytest.raises(DocumentRejected) as caught:
            parse(data, "a.eml")
        assert caught.value.reason is reason


def test_outlook_messages(parse: ParseHere) -> None:
    data = ole.message(
        subject="Vögel", body="Herons wait.", sender="Ann", attachments={"Zählung.csv": CSV, "b.bin": b"\1" * 500}
    )
    parsed = parse(data, "a.bin")
    assert parsed.title == "Vögel"
    assert parsed.text.endswith("Subject: Vögel\n\nHerons wait.")
    assert parsed.members == (Member("Zählung.csv", CSV), Member("b.bin", b"\1" * 500))
    with pytest.raises(DocumentRejected) as caught:
        parse(data[:700], "a.msg")
    assert caught.value.reason is Reason.DAMAGED
