"""Documents made on the spot, and a way to parse them without a child process."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import docx
import pytest

from ragline.parsing.detect import detect
from ragline.parsing.formats import FORMATS
from ragline.parsing.limits import Limits
from ragline.parsing.outline import Outline
from ragline.parsing.pool import ParserPool
from ragline.types import Parsed

ParseHere: TypeAlias = Callable[..., Parsed]


@pytest.fixture
def parse(tmp_path: Path) -> ParseHere:
    """What a child does with a document, in this process."""

    def here(
        data: bytes, name: str, media_type: str | None = None, max_chars: int = 10_000_000, **limits: Any
    ) -> Parsed:
        found = detect(data, name=name, media_type=media_type, formats=FORMATS)
        out = Outline(Limits(max_text_chars=max_chars, **limits), name=name, slow=True, scratch=tmp_path)
        found.load()(data, out)
        parsed = out.parsed()
        text = parsed.text
        ends = [0]
        for block in parsed.blocks:
            assert not text[ends[-1] : block.start].strip(), "blocks cover the text, in order"
            assert ends[-1] <= block.start < block.end
            ends.append(block.end)
        assert not text[ends[-1] :].strip()
        return parsed

    return here


@pytest.fixture
async def pool() -> AsyncIterator[ParserPool]:
    pool = ParserPool(processes=1, timeout_s=60.0, limits=Limits())
    yield pool
    await pool.aclose()


@pytest.fixture
def make_pdf() -> Callable[..., bytes]:
    return _pdf


@pytest.fixture
def make_docx() -> Callable[[Callable[[docx.document.Document], object]], bytes]:
    def make(write: Callable[[docx.document.Document], object]) -> bytes:
        document = docx.Document()
        document.core_properties.title = ""
        write(document)
        out = io.BytesIO()
        document.save(out)
        return out.getvalue()

    return make


@pytest.fixture
def make_zip() -> Callable[[dict[str, bytes]], bytes]:
    def make(members: dict[str, bytes]) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as package:
            for path, data in members.items():
                package.writestr(path, data)
        return out.getvalue()

    return make


def _pdf(pages: Sequence[Sequence[str]], *, title: str = "", password: str | None = None) -> bytes:
    """A PDF 1.4 with the lines of each page in Helvetica; under a user password by the standard's 40-bit RC4."""
    padding = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")
    identity, permissions = b"ragline-test-pdf", -4
    key = owner = b""
    if password is not None:
        padded = (password.encode() + padding)[:32]
        owner = _rc4(hashlib.md5(padded).digest()[:5], padded)
        key = hashlib.md5(padded + owner + permissions.to_bytes(4, "little", signed=True) + identity).digest()[:5]

    def sealed(number: int, data: bytes) -> bytes:
        if password is None:
            return data
        return _rc4(hashlib.md5(key + number.to_bytes(3, "little") + b"\0\0").digest()[:10], data)

    count = len(pages)
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(count))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {count} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for i, lines in enumerate(pages):
        shown = b"".join(b"(" + line.encode("cp1252").replace(b"(", b"\\(") + b") Tj T*\n" for line in lines)
        stream = sealed(5 + 2 * i, b"BT /F1 12 Tf 14 TL 72 720 Td\n" + shown + b"ET")
        place = f"/Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * i} 0 R"
        objects.append(f"<< /Type /Page {place} /Resources << /Font << /F1 3 0 R >> >> >>".encode())
        objects.append(f"<< /Length {len(stream)} >>\nstream\n".encode() + stream + b"\nendstream")
    trailer = f"/Root 1 0 R /ID [<{identity.hex()}> <{identity.hex()}>]"
    if title:
        objects.append(f"<< /Title ({title}) >>".encode())
        trailer += f" /Info {len(objects)} 0 R"
    if password is not None:
        user = _rc4(key, padding)
        secrets = f"/O <{owner.hex()}> /U <{user.hex()}> /P {permissions}"
        objects.append(f"<< /Filter /Standard /V 1 /R 2 {secrets} >>".encode())
        trailer += f" /Encrypt {len(objects)} 0 R"
    out, offsets = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n"), []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}".encode()
    start = out.rindex(b"xref\n0 ")
    return bytes(out) + f"trailer\n<< /Size {len(objects) + 1} {trailer} >>\nstartxref\n{start}\n%%EOF\n".encode()


def _rc4(key: bytes, data: bytes) -> bytes:
    state, j = list(range(256)), 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    out, i, j = bytearray(), 0, 0
    for byte in data:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)
