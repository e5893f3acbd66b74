"""MSG, Outlook's own file of one mail, by python-oxmsg: the same shape as EML."""

from __future__ import annotations

import io

from oxmsg import Message
from oxmsg.attachment import Attachment

from ragline.errors import DocumentRejected, Reason
from ragline.parsing.mail import write_body, write_heads
from ragline.parsing.outline import Outline, one_line


def parse(data: bytes, out: Outline) -> None:
    """Raises DocumentRejected: DAMAGED, ENCRYPTED."""
    try:
        message = Message.load(io.BytesIO(data))
        heads = {
            "From": message.sender or "",
            "To": ", ".join(f"{one.name} <{one.email_address}>" for one in message.recipients),
            "Date": message.sent_date.isoformat(" ") if message.sent_date else "",
            "Subject": message.subject or "",
        }
        if ".SMIME" in message.message_class and not message.body:
            raise DocumentRejected(
                Reason.ENCRYPTED, "The mail is encrypted.", next_step="Save it decrypted, and upload that copy."
            )
        write_heads({name: one_line(value) for name, value in heads.items()}, out)
        write_body(message.body or "", [message.html_body] if message.html_body else [], out)
        for attachment in message.attachments:
            _attach(attachment, out)
    except (OSError, ValueError, KeyError, IndexError, AttributeError, TypeError, EOFError) as error:
        raise DocumentRejected(
            Reason.DAMAGED,
            "The Outlook message is damaged or cut short.",
            next_step="Open it in Outlook, save it again, or save it as EML.",
        ) from error


def _attach(attachment: Attachment, out: Outline) -> None:
    name = attachment.file_name or "attachment"
    data = attachment.file_bytes
    if data is not None:
        out.member(name, data)
    else:
        out.leave_out(name, "a mail inside an Outlook message; save it as a file of its own")
