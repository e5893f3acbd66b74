"""Which webhooks are called at all."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Sequence

import pytest

from ragline.errors import InvalidRequest
from ragline.settings import WebhooksSettings
from ragline.webhooks import addresses
from ragline.webhooks.addresses import Address, Addresses, NotAllowed, Unresolved, is_public

PRIVATE = (
    "127.0.0.1 127.8.8.8 0.0.0.0 0.1.2.3 10.0.0.1 172.16.0.1 192.168.1.1 169.254.169.254 169.254.170.2 100.64.0.1 "
    "100.100.100.200 168.63.129.16 192.0.0.192 192.0.2.1 192.88.99.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.1.1.1 "
    "240.0.0.1 255.255.255.255 :: ::1 ::7f00:1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::ffff:169.254.169.254 64:ff9b::7f00:1 "
    "64:ff9b::a9fe:a9fe 64:ff9b::a00:1 64:ff9b:1::1 100::1 2001::1 2001:0:7f00:1:: 2001:db8::1 2002:7f00:1:: 2002:808:808:: "
    "3fff::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1 fe80::1%lo fec0::1 ff02::1 ff0e::1"
).split()
PUBLIC = "8.8.8.8 1.1.1.1 192.0.1.1 168.63.129.15 2606:4700::1111 2a00:1450:4001::1 64:ff9b::808:808".split()


def names(*found: str) -> addresses.Resolve:
    async def resolve(host: str) -> list[Address]:
        return [ipaddress.ip_address(one) for one in found]

    return resolve


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_the_internets_is_not_called(address: str) -> None:
    assert not Addresses(WebhooksSettings()).may_be_called(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_the_internets_is(address: str) -> None:
    assert Addresses(WebhooksSettings()).may_be_called(ipaddress.ip_address(address))


def test_a_translated_address_is_judged_by_the_one_behind_it() -> None:
    assert not is_public(ipaddress.ip_address("64:ff9b::808:808")), "else this test says nothing"
    allowed = Addresses(WebhooksSettings.model_validate({"allow_networks": ["64:ff9b::/96"]}))
    assert allowed.may_be_called(ipaddress.ip_address("64:ff9b::7f00:1")), "an operator's word counts"


async def test_one_private_address_among_public_ones_is_enough() -> None:
    checked = Addresses(WebhooksSettings(), names("8.8.8.8", "2606:4700::1111", "10.0.0.1"))
    with pytest.raises(InvalidRequest, match="not public ones alone") as refused:
        await checked.check("https://receiver.example/hook")
    assert refused.value.field == "webhook"
    assert "10.0.0.1" not in str(refused.value)


async def test_an_operator_may_allow_a_network_and_no_more() -> None:
    settings = WebhooksSettings.model_validate({"allow_networks": ["10.1.0.0/16", "fd12::/32"]})
    await Addresses(settings, names("10.1.2.3", "fd12::1", "8.8.8.8")).check("https://receiver.example")
    for other in ("10.2.0.1", "127.0.0.1", "fd13::1"):
        with pytest.raises(InvalidRequest):
            await Addresses(settings, names("10.1.2.3", other)).check("https://receiver.example")


@pytest.mark.parametrize(
    "url",
    [
        "https://localhost/", "https://localhost./", "https://127.0.0.1/", "https://127.1/", "https://2130706433/",
        "https://0x7f.0.0.1/", "https://017700000001/", "https://[::1]/", "https://[::ffff:127.0.0.1]/",
        "https://169.254.169.254/latest/meta-data/", "https://[fd00:ec2::254]/", "https://0/", "https://[::]/",
        "https://LOCALHOST:8443/x", "https://" + "x" * 70 + ".example/",
    ],
)  # fmt: skip
async def test_this_machine_by_any_spelling_is_not_called_nor_is_no_name(url: str) -> None:
    """Resolved by the system, as in production."""
    checked = Addresses(WebhooksSettings())
    with pytest.raises(InvalidRequest, match=r"webhook: .*public address"):
        await checked.check(url)
    await checked.aclose()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://receiver.example/", "http:// is not taken"), ("ftp://receiver.example/", "scheme"),
        ("file:///etc/passwd", "scheme"), ("gopher://receiver.example", "scheme"), ("//receiver.example/", "scheme"),
        ("receiver.example", "scheme"), ("https://", "host and port"), ("https:///path", "host and port"),
        ("https://receiver.example:0/", "host and port"), ("https://receiver.example:99999/", "host and port"),
        ("https://user:secret@receiver.example/", "user or password"), ("https://user@receiver.example/", "user or password"),
        ("https://a b/", "host and port"), ("https://[::1/", "not a URL"), ("https://[fe80::1%25lo]/", "host and port"),
        ("https://receiver.example/\r\nX: y", "not a URL"), ("https://" + "x." * 127 + "example/", "host and port"),
        ("https://a\u2100b.example/", "not a URL"), ("https://[v1.x]/", "not a URL|host and port"),
        ("https://receiver.example/" + "x" * 2_048, "characters"), ("https://\ud800/", "not a URL"), ("", "scheme"),
    ],
)  # fmt: skip
async def test_what_is_no_address_of_a_webhook(url: str, why: str) -> None:
    checked = Addresses(WebhooksSettings(), names("8.8.8.8"))
    with pytest.raises(InvalidRequest, match=why) as refused:
        await checked.check(url)
    assert refused.value.field == "webhook"
    assert "secret" not in str(refused.value)


async def test_what_is_called_is_what_was_looked_at() -> None:
    """One parser for both; a name in another script is its ASCII form to both, too."""
    checked = Addresses(WebhooksSettings(), names("8.8.8.8"))
    target = checked.target("https://B\u00fccher.example:8443/a b?q=\u00e4#f")
    assert (target.host, target.authority, target.port) == ("xn--bcher-kva.example", "xn--bcher-kva.example:8443", 8443)
    assert target.path == "/a%20b?q=%C3%A4"
    for url in ("https://evil.example\\@receiver.example/", "https://receiver.example@evil.example/"):
        with pytest.raises(NotAllowed):
            checked.target(url)


def failing(error: Exception) -> addresses.Resolve:
    async def resolve(host: str) -> list[Address]:
        raise error

    return resolve


async def test_a_name_that_is_not_there_is_told_in_the_words_of_one_that_is_private() -> None:
    told: list[str] = []
    resolvers: Sequence[addresses.Resolve] = (failing(Unresolved("x.example", definite=True)), names("10.0.0.1"))
    for resolve in resolvers:
        with pytest.raises(InvalidRequest) as refused:
            await Addresses(WebhooksSettings(), resolve).check("https://x.example/")
        told.append(str(refused.value))
    assert told[0] == told[1]


async def test_a_name_server_that_is_away_or_hangs_refuses_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    await Addresses(WebhooksSettings(), failing(Unresolved("x.example", definite=False))).check("https://x.example/")

    async def hangs(host: str) -> list[Address]:
        return await asyncio.Future()

    monkeypatch.setattr(addresses, "ACCEPT_S", 0.01)
    await Addresses(WebhooksSettings(), hangs).check("https://x.example/")
