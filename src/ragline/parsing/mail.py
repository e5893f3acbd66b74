"""EML: head lines, the body as text, attachments as members.

The body is the HTML alternative, for its tables and headings, unless the plain one says more. A mail inside a mail is an
attachment.
"""

from __future__ import annotations

import codecs
import email
import email.policy
from collections.abc import Iterator, Sequence
from email.header import decode_header, make_header
from email.message import Message

from ragline.errors import DocumentRejected, Reason
from ragline.parsing.decode import decode
from ragline.parsing.html import write_page
from ragline.parsing.outline import Outline, one_line

HEADS = ("From", "To", "Cc", "Date", "Subject")
MIN_SHARE = 0.8
"""Of the plain alternative's letters: with less, the HTML one is a stub."""

WIDE_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
MAX_PARTS = 10_000
"""Parts of one mail; a hostile one has millions."""


def parse(data: bytes, out: Outline) -> None:
    """Raises DocumentRejected: DAMAGED, ENCRYPTED."""
    if data.startswith(WIDE_MARKS):
        data = decode(data).encode()
    message = email.message_from_bytes(data, policy=email.policy.compat32)
    heads = {name: _head(message, name) for name in HEADS}
    if not any(heads.values()):
        raise DocumentRejected(
            Reason.DAMAGED, "The mail has no head lines.", next_step="Save it again as EML from the mail program."
        )
    if message.get_content_type() in ("multipart/encrypted", "application/pkcs7-mime"):
        raise DocumentRejected(
            Reason.ENCRYPTED, "The mail is encrypted.", next_step="Save it decrypted, and upload that copy."
        )
    write_heads(heads, out)
    plain, html = list[Message](), list[Message]()
    for part in _parts(message):
        kind = part.get_content_type()
        if kind in ("text/plain", "text/html") and part.get_content_disposition() != "attachment":
            (plain if kind == "text/plain" else html).append(part)
        elif not _is_decoration(part):
            out.member(_name(part), _bytes(part))
    write_body("\n\n".join(map(_text, plain)), [_text(part) for part in html], out)


def write_body(plain: str, pages: Sequence[str], out: Outline) -> None:
    """The alternative that says more; the HTML one on a tie, give or take MIN_SHARE."""
    rendered = Outline(out.limits)
    for page in pages:
        write_page(page, rendered)
    said = sum(len(word) for word in plain.split() if "://" not in word)
    if rendered.letters < MIN_SHARE * said:
        out.verbatim(plain)
    else:
        for page in pages:
            write_page(page, out)


def write_heads(heads: dict[str, str], out: Outline) -> None:
    """`heads` by the names of HEADS, on lines of their own; the subject is the title."""
    out.title = heads.get("Subject") or None
    out.paragraph("\n".join(f"{name}: {value}" for name, value in heads.items() if value))


def _parts(message: Message) -> Iterator[Message]:
    """Leaves in order, without recursion; a mail inside this one is a leaf."""
    waiting, seen = [message], 0
    while waiting and seen < MAX_PARTS:
        part = waiting.pop()
        seen += 1
        inner = part.get_payload()
        if isinstance(inner, list) and part.get_content_maintype() == "multipart":
            waiting += [one for one in reversed(inner) if isinstance(one, Message)]
        else:
            yield part


def _head(message: Message, name: str) -> str:
    try:
        return one_line(str(make_header(decode_header(str(message.get(name, ""))))))
    except (LookupError, UnicodeError, ValueError):  # an encoding nobody knows: as it stands
        return one_line(str(message.get(name, "")))


def _is_decoration(part: Message) -> bool:
    """What the HTML body is shown with: pictures, and the parts of a saved page (MHTML). And signatures."""
    kind, attached = part.get_content_maintype(), part.get_content_disposition() == "attachment"
    picture = kind == "image" and part.get("Content-ID") is not None
    saved = part.get("Content-Location") is not None
    return (not attached and (picture or saved)) or part.get_content_subtype().endswith("signature")


def _bytes(part: Message) -> bytes:
    inner = _inner(part)
    if inner is not None:
        return inner.as_bytes()
    found = part.get_payload(decode=True)
    return found if isinstance(found, bytes) else b""


def _inner(part: Message) -> Message | None:
    """The mail that is attached here, if one is."""
    held = part.get_payload()
    inner = held[0] if part.get_content_type() == "message/rfc822" and isinstance(held, list) and held else None
    return inner if isinstance(inner, Message) else None


def _name(part: Message) -> str:
    name = part.get_filename()
    if name:
        try:
            return str(make_header(decode_header(name)))
        except (LookupError, UnicodeError, ValueError):
            return name
    inner = _inner(part)
    if inner is not None:
        subject = _head(inner, "Subject")
        return f"{subject.replace('/', '-') or 'message'}.eml"
    return f"attachment.{part.get_content_subtype()}"


def _text(part: Message) -> str:
    return decode(_bytes(part), declared=part.get_content_charset())
