"""A real Varnish with the VCL that ships, in front of a real gateway: what is stored, what never is, and when it goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import httpx
import pytest
from pydantic import SecretStr

from ragline.api.app import gateway
from ragline.build import build
from ragline.edges.varnish import VarnishEdge
from ragline.errors import ConfigurationError, EngineDenied, EngineUnavailable
from ragline.settings import EdgeSettings, Settings
from ragline.types import NamespaceSettings, Upload
from tests.edges.origin import Origin, served
from tests.engines.server import free_port
from tests.engines.varnish import Varnish, varnish
from tests.house import House

OWNER = "owner-token"
SHIPS = "/v1/search?q=ships+harbour&top_k=3"


@dataclass
class Site:
    """Readers → Varnish → gateway, and the workers, which work when told."""

    house: House
    origin: Origin
    varnish: Varnish
    reader: httpx.AsyncClient

    async def publish(self, public: bool = True) -> None:
        namespaces = self.house.system.namespaces
        old = await namespaces.get("default")
        await namespaces.configure("default", replace(old.settings, public=public))
        self.house.system.snapshots.forget("default")

    async def write(self, uri: str, text: str) -> None:
        """Until it is live."""
        await self.house.accept(uri, text)
        await self.house.work()

    async def purge(self) -> None:
        """Until the edge has acknowledged each purge once."""
        while await self.house.system.purge_worker.round():
            pass
        assert (await self.house.system.purge_worker._purges.waiting()).count == 0

    async def read(self, path: str = SHIPS, **headers: str) -> httpx.Response:
        return await self.reader.get(path, headers=headers)

    async def id(self, uri: str) -> str:
        found = await self.house.system.documents.page("default", after="", most=1, state=None, uri=uri)
        return found[0].id

    def texts(self, response: httpx.Response) -> str:
        assert response.status_code == 200, response.text
        return " ".join(passage["text"] for passage in response.json()["passages"])


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    port = free_port()
    with varnish(port) as cache:
        edge = EdgeSettings(url=cache.edge, popular_after=1)
        system = await build(Settings(data_dir=tmp_path_factory.mktemp("edge"), edge=edge))
        reading = httpx.AsyncClient(base_url=cache.url, timeout=30.0)
        async with served(gateway(system, owner_token=OWNER), port) as origin, reading as reader:
            yield Site(House(system), origin, cache, reader)
        await system.aclose()


@pytest.fixture
async def site(place: Site) -> Site:
    """A public namespace `default` with one document about ships."""
    system = place.house.system
    await system.namespaces.delete("default")
    await system.epochs.drop_retired()
    system.snapshots.forget("default")
    await system.epochs.create_namespace("default", NamespaceSettings(public=True))
    await place.write("ships.txt", "Seven ships left the harbour at dawn.")
    await place.write("bread.txt", "Bread is baked before the sun rises.")
    await place.purge()
    place.origin.asked.clear()
    return place


async def test_the_second_reader_never_reaches_the_origin(site: Site) -> None:
    first = await site.read()
    others = await asyncio.gather(*(site.read() for _ in range(50)))
    assert "Seven ships" in site.texts(first)
    assert {other.content for other in others} == {first.content}
    assert site.origin.asked == ["/v1/search"]
    assert first.headers["x-cache"] == "MISS"
    assert {other.headers["x-cache"] for other in others} == {"HIT"}


@pytest.mark.parametrize(
    "same",
    [
        "/v1/search?top_k=3&q=ships+harbour", "/v1/search?q=ships%20harbour&top_k=3", "/v1/search?q=ships++harbour&top_k=3",
        "/v1/search?utm_source=x&q=ships+harbour&top_k=3&y=1", "/v1/search?q=ships+harbour&top_k=3&",
    ],
)  # fmt: skip
async def test_one_question_is_one_address(site: Site, same: str) -> None:
    first = await site.read()
    assert (await site.read(same)).content == first.content
    assert len(site.origin.asked) == 1


@pytest.mark.parametrize(
    "other", ["q=ships+harbour&top_k=2", "q=ships&top_k=3", "q=ships+harbour&top_k=3&legs=keyword"]
)
async def test_another_question_is_another_address(site: Site, other: str) -> None:
    await site.read()
    await site.read(f"/v1/search?{other}")
    assert len(site.origin.asked) == 2


async def test_readers_see_no_keys_and_may_not_keep_it(site: Site) -> None:
    for _ in range(2):
        headers = (await site.read()).headers
        assert not {"surrogate-key", "xkey", "ragline-visible", "ragline-namespace", "set-cookie"} & set(headers)
        assert headers["cache-control"] == "public, max-age=0, must-revalidate"


async def test_a_reader_who_has_it_gets_a_304_from_the_edge(site: Site) -> None:
    tag = (await site.read()).headers["etag"]
    again = await site.read(**{"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    assert len(site.origin.asked) == 1


async def test_a_caller_with_a_key_gets_its_own_answer_which_is_never_stored(site: Site) -> None:
    await site.read()
    await site.house.accept("secret.txt", "Secret ships leave the harbour at night.", groups=frozenset({"navy"}))
    await site.house.work()
    key, token = await site.house.system.keys.create(
        "sailor", "read", namespaces=None, groups=frozenset({"navy"}), expires_at=None
    )
    try:
        for _ in range(3):
            mine = await site.read(Authorization=f"Bearer {token}")
            assert mine.headers["cache-control"] == "private, no-store"
            assert "Secret ships" in site.texts(mine)
            assert "Secret" not in site.texts(await site.read())
    finally:
        await site.house.system.keys.revoke(key.id)
    assert len(site.origin.asked) == 4


async def test_a_request_with_a_cookie_is_passed_on(site: Site) -> None:
    await site.read()
    await site.read(Cookie="session=1")
    assert len(site.origin.asked) == 2


async def test_a_private_namespace_is_never_stored(site: Site) -> None:
    await site.publish(False)
    await site.purge()
    for _ in range(5):
        found = await site.read(Authorization=f"Bearer {OWNER}")
        assert found.status_code == 200
        assert "no-store" in found.headers["cache-control"]
        refused = await site.read()
        assert (refused.status_code, refused.headers["cache-control"]) == (401, "no-store")
    assert len(site.origin.asked) == 10


async def test_a_namespace_that_is_made_private_goes_from_the_edge(site: Site) -> None:
    await site.read()
    await site.read("/v1/search?q=nothing+of+the+kind&legs=keyword")
    await site.publish(False)
    await site.purge()
    assert (await site.read()).status_code == 401
    assert (await site.read("/v1/search?q=nothing+of+the+kind&legs=keyword")).status_code == 401


async def test_only_what_has_changed_goes(site: Site) -> None:
    bread = "/v1/search?q=bread&top_k=1&legs=keyword"
    await site.read("/v1/search?q=ships&top_k=1&legs=keyword")
    await site.read(bread)
    await site.write("ships.txt", "Eight ships left the harbour at dusk.")
    await site.purge()
    assert (await site.read(bread)).headers["x-cache"] == "HIT"
    assert "Eight" in site.texts(await site.read("/v1/search?q=ships&top_k=1&legs=keyword"))


async def test_what_is_closed_to_readers_goes_before_any_worker_has_seen_it(site: Site) -> None:
    assert "Bread" in site.texts(await site.read("/v1/search?q=bread"))
    await site.house.accept("bread.txt", "Bread is baked before the sun rises.", groups=frozenset({"bakers"}))
    await site.purge()
    assert "Bread" not in site.texts(await site.read("/v1/search?q=bread"))


async def test_what_is_deleted_goes(site: Site) -> None:
    assert "ships" in site.texts(await site.read())
    await site.house.system.documents.delete("default", await site.id("ships.txt"))
    await site.purge()
    assert "ships" not in site.texts(await site.read())


async def test_a_new_title_is_seen_once_it_is_in_the_stores(site: Site) -> None:
    system = site.house.system
    namespace = await system.namespaces.get("default")
    upload = Upload("ships.txt", b"Seven ships left the harbour at dawn.", title="The fleet")
    assert (await site.read()).json()["passages"][0]["title"] != "The fleet"
    await system.ingest.accept(namespace, upload)
    await site.purge()
    await site.read()  # the old title is stored once more: no worker has written the new one yet
    await site.house.work()
    await site.purge()
    assert (await site.read()).json()["passages"][0]["title"] == "The fleet"


async def test_a_cut_over_drops_the_whole_namespace(site: Site) -> None:
    before = (await site.read()).json()["epoch"]
    await site.house.system.epochs.begin("default")
    await site.house.system.epochs.fill("default")
    await site.purge()
    assert (await site.read()).json()["epoch"] != before


async def test_once_a_purge_is_acknowledged_no_reader_gets_the_old_answer(site: Site) -> None:
    """Many rounds, with readers who never rest: whoever begins to read after the acknowledgement sees the new text."""
    known, stop = 0, False
    old: list[tuple[int, str]] = []
    reads = 0

    async def reader() -> None:
        nonlocal reads
        while not stop:
            least = known
            text = site.texts(await site.read("/v1/search?q=ships+number&top_k=1"))
            reads += 1
            if int(text.split("number ")[1].split()[0]) < least:
                old.append((least, text))

    await site.write("ships.txt", "The ships are number 0 today.")
    await site.purge()
    readers = [asyncio.create_task(reader()) for _ in range(8)]
    for number in range(1, 61):
        await site.write("ships.txt", f"The ships are number {number} today.")
        await site.purge()
        known = number
        await asyncio.sleep(0)
    stop = True
    await asyncio.gather(*readers)
    assert old == []
    assert reads > len(site.origin.asked), "the edge answered some of them"


async def test_an_answer_that_comes_behind_the_purge_is_not_stored(site: Site) -> None:
    """It was made before the change, and is held back on its way until after the purge. Only who asked before gets it."""
    site.origin.hold_next()
    early = asyncio.create_task(site.read())
    await site.origin.held.wait()
    await site.write("ships.txt", "Eight ships left the harbour at dusk.")
    await site.purge()
    waiting = [asyncio.create_task(site.read()) for _ in range(5)]  # behind the one that is under way
    await asyncio.sleep(0)
    site.origin.let_go.set()
    assert "Seven" in site.texts(await early), "it was asked for before"
    for late in waiting:
        assert "Eight" in site.texts(await late)
    assert "Eight" in site.texts(await site.read())


async def test_without_the_count_it_would_be_stored(site: Site) -> None:
    """That the test above could fail: the edge is told a purge with no newer count."""
    site.origin.hold_next()
    early = asyncio.create_task(site.read())
    await site.origin.held.wait()
    await site.write("ships.txt", "Eight ships left the harbour at dusk.")
    site.origin.let_go.set()
    assert "Seven" in site.texts(await early)
    assert "Seven" in site.texts(await site.read()), "stored, since nobody has purged"
    await site.purge()
    assert "Eight" in site.texts(await site.read())


async def test_all_varnishes_must_acknowledge(site: Site) -> None:
    away = free_port()
    both = VarnishEdge(f"{site.varnish.edge},127.0.0.1:{away}", token=None, timeout_s=5.0)
    await site.read()
    uid = (await site.house.system.namespaces.get("default")).uid
    with pytest.raises(EngineUnavailable):
        await both.purge([f"n-{uid}"], namespace=uid, visible=10**6)
    assert (await site.read()).headers["x-cache"] == "MISS", "the one that is there has dropped it"
    await both.aclose()
    await both.aclose()


async def test_many_keys_go_in_parts(site: Site) -> None:
    await site.read()
    namespace = await site.house.system.namespaces.get("default")
    ships = await site.id("ships.txt")
    edge = VarnishEdge(site.varnish.edge, token=None, timeout_s=5.0)
    keys = [*(f"d-{n:024x}" for n in range(1_000)), f"d-{ships}"]
    await edge.purge(keys, namespace=namespace.uid, visible=namespace.visible)
    await edge.aclose()
    assert (await site.read()).headers["x-cache"] == "MISS"


def test_more_keys_than_a_header_holds_are_not_stored() -> None:
    edge = VarnishEdge("varnish://127.0.0.1", token=None, timeout_s=5.0)
    assert edge.labels([f"d-{n:024x}" for n in range(200)], namespace="u", visible=1)
    assert edge.labels([f"d-{n:024x}" for n in range(300)], namespace="u", visible=1) is None


async def test_who_is_no_purger_is_refused() -> None:
    with varnish(free_port(), purgers="192.0.2.1") as closed:
        edge = VarnishEdge(closed.edge, token=None, timeout_s=5.0)
        with pytest.raises(EngineDenied, match="403") as refused:
            await edge.purge(["n-1"], namespace="1", visible=1)
        assert "site.vcl" in refused.value.next_step
        await edge.aclose()


@pytest.mark.parametrize(
    "url", ["varnish://", "varnish://a,", "varnish://a/b", "varnish://user@a", "varnish://a:x", "varnish://a?b=c"]
)
def test_wrong_urls_are_told(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"edge\.url"):
        VarnishEdge(url, token=None, timeout_s=1.0)


def test_varnish_takes_no_token() -> None:
    with pytest.raises(ConfigurationError, match="no token"):
        VarnishEdge("varnish://a", token=SecretStr("x"), timeout_s=1.0)
