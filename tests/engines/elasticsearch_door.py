"""What stands before a cluster in production: a proxy that ends TLS, asks for a password, and has limits of its own.

The published jars have no security; this is where wrong passwords and certificates meet the real client and the real node.
"""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HANG = object()
"""As an answer: none, until the client goes."""

_PRODUCT = {"X-Elastic-Product": "Elasticsearch", "Content-Type": "application/json"}


@dataclass
class Door:
    """`answer`: instead of the node's, (status, type of the error), HANG, or None to pass the request on."""

    host: str = ""
    answer: Callable[[str, bytes], object | None] = lambda path, body: None
    asked: list[tuple[str, int]] = field(default_factory=list)
    """Path and body's bytes of each request."""
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """A client went while it hung."""


@asynccontextmanager
async def door(to: str, *, user: str = "", password: str = "", certificate: Path | None = None) -> AsyncIterator[Door]:
    """Before the node at `to` (``host:port``); without a user anybody may pass, unless a password alone, an API key, is."""
    ours = Door()
    wanted = ""
    if user:
        wanted = f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
    elif password:
        wanted = f"ApiKey {password}"
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    handlers: set[asyncio.Task[None]] = set()
    async with httpx.AsyncClient(base_url=f"http://{to}", timeout=60) as node:

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task
            handlers.add(task)
            task.add_done_callback(handlers.discard)
            try:
                while await _one(ours, node, wanted, reader, writer):
                    pass
            except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
                pass  # the client went: some tests are about that
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context, limit=1 << 20)
        ours.host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield ours
        finally:
            server.close()
            for handler in handlers:
                handler.cancel()
            await asyncio.gather(*handlers, return_exceptions=True)


async def _one(
    ours: Door, node: httpx.AsyncClient, wanted: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    ours.asked.append((path, len(body)))
    ours.arrived.set()
    answer = ours.answer(path, body)
    if answer is HANG:
        await reader.read()
        ours.left.set()
        return False
    if wanted and headers.get("authorization") != wanted:
        answer = (401, "security_exception")
    if isinstance(answer, tuple):
        status, kind = answer
        error = {"root_cause": [{"type": kind, "reason": "played"}], "type": kind, "reason": "played"}
        content, said = json.dumps({"error": error, "status": status}).encode(), _PRODUCT
    else:
        passed = {name: value for name, value in headers.items() if name in ("accept", "content-type")}
        try:
            told = await node.request(method, path, content=body, headers=passed)
        except httpx.HTTPError:
            return False
        status, content = told.status_code, told.content
        said = {name: told.headers[name] for name in _PRODUCT if name in told.headers}
    head = [f"HTTP/1.1 {status} Said", *(f"{name}: {value}" for name, value in said.items())]
    writer.write("\r\n".join([*head, f"Content-Length: {len(content)}", "", ""]).encode())
    if method != "HEAD":
        writer.write(content)
    await writer.drain()
    return True


def certificate(folder: Path, *names: str) -> tuple[Path, Path]:
    """The files of an authority, and of a certificate with its key that it has signed for `names`, or for 127.0.0.1."""
    key, authority_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Tests")])
    now = dt.datetime.now(dt.UTC)

    def signed(subject: x509.Name, public: ec.EllipticCurvePublicKey, *extensions: x509.ExtensionType) -> bytes:
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
        made = made.serial_number(x509.random_serial_number())
        made = made.not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=1))
        for extension in extensions:
            made = made.add_extension(extension, critical=False)
        return made.sign(authority_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    known = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())
    authority, pair = folder / "authority.pem", folder / "server.pem"
    authority.write_bytes(
        signed(issuer, authority_key.public_key(), x509.BasicConstraints(ca=True, path_length=None), known)
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    local: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    here = x509.SubjectAlternativeName([x509.DNSName(one) for one in names] or local)
    by = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(known)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, (*names, "127.0.0.1")[0])])
    pair.write_bytes(private + signed(name, key.public_key(), here, by))
    return authority, pair
