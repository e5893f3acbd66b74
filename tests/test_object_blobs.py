"""Blobs on S3, on a server of our own: the house on it, and what goes wrong with a bucket. The contract is in test_blobs.py."""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import Iterator
from pathlib import Path

import botocore.exceptions
import pytest
import s3fs.errors

from ragline import object_blobs
from ragline.blobs import open_blobs
from ragline.build import build
from ragline.errors import (
    EngineDenied,
    EngineError,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
    MissingDependency,
    NotFound,
)
from ragline.object_blobs import FsspecBlobs, failure
from ragline.settings import Settings
from ragline.system import System
from ragline.types import State
from tests.engines.s3 import S3, made
from tests.engines.server import free_port
from tests.house import House


@pytest.fixture
def bucket(s3: S3) -> str:
    return s3.bucket()


@pytest.fixture
def blobs(bucket: str) -> FsspecBlobs:
    return FsspecBlobs(f"s3://{bucket}/house")


# ── what other processes do ──────────────────────────────────────────────────────────────────────────────────────────


async def test_what_another_process_writes_is_listed_and_deleted(blobs: FsspecBlobs, s3: S3, bucket: str) -> None:
    await blobs.put("n/d/1/original", b"one")
    assert await blobs.paths("n/d/1") == ["n/d/1/original"]
    assert await blobs.folders() == ["n"]
    s3.client().put_object(Bucket=bucket, Key="house/n/d/1/chunks-1", Body=b"two")
    s3.client().put_object(Bucket=bucket, Key="house/m/d/1/original", Body=b"three")
    assert await blobs.paths("n/d/1") == ["n/d/1/chunks-1", "n/d/1/original"]
    assert await blobs.folders() == ["m", "n"]
    await blobs.delete("n/d/1")
    assert s3.keys(bucket) == ["house/m/d/1/original"]


async def test_a_name_that_begins_alike_stays(blobs: FsspecBlobs, s3: S3, bucket: str) -> None:
    for path in ("n/d/1/original", "n/d/10/original", "n/d/1-", "n/d/1.old/original"):
        await blobs.put(path, b"x")
    await blobs.delete("n/d/1")
    assert s3.keys(bucket) == ["house/n/d/1-", "house/n/d/1.old/original", "house/n/d/10/original"]


async def test_more_than_one_page_of_objects_goes(blobs: FsspecBlobs, s3: S3, bucket: str) -> None:
    for at in range(0, 1_100, 50):
        await asyncio.gather(*(blobs.put(f"n/d/{n}", b"x") for n in range(at, at + 50)))
    assert len(await blobs.paths("n")) == 1_100
    await blobs.delete("n")
    assert s3.keys(bucket) == []


async def test_a_large_document_goes_in_parts(blobs: FsspecBlobs) -> None:
    data = bytes(range(256)) * (60 << 12)  # 60 MiB, over the 50 MiB of a part
    await blobs.put("n/large", data)
    assert await blobs.get("n/large") == data
    assert [entry.size for entry in await blobs.entries("n")] == [len(data)]


async def test_a_cancelled_call_leaves_a_sound_client(blobs: FsspecBlobs) -> None:
    await blobs.put("n/a", b"x")
    calls = [asyncio.create_task(blobs.get("n/a")) for _ in range(20)]
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert await blobs.get("n/a") == b"x"


# ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_object_gone_under_us(blobs: FsspecBlobs, s3: S3, bucket: str) -> None:
    await blobs.put("n/d/1/original", b"one")
    s3.client().delete_object(Bucket=bucket, Key="house/n/d/1/original")
    with pytest.raises(NotFound, match=r"n/d/1/original is gone") as gone:
        await blobs.get("n/d/1/original")
    assert "Upload" in gone.value.next_step
    assert await blobs.entries("n") == []
    await blobs.delete("n/d/1")


async def test_a_bucket_that_is_not_there_is_told_and_not_made(s3: S3, tmp_path: Path) -> None:
    before = [one["Name"] for one in s3.client().list_buckets()["Buckets"]]
    blobs = FsspecBlobs("s3://mistyped-bucket/house")
    for call in (
        blobs.put("a/b", b"x"), blobs.get("a/b"), blobs.paths("a"), blobs.entries("a"), blobs.folders(), blobs.delete("a"),
    ):  # fmt: skip
        with pytest.raises(EngineRejected, match=r"s3://mistyped-bucket/house: There is no such bucket") as refused:
            await call
        assert "correct `blobs`" in refused.value.next_step
    with pytest.raises(EngineRejected, match="no such bucket"):
        await build(Settings(data_dir=tmp_path, blobs="s3://mistyped-bucket/house"))
    assert [one["Name"] for one in s3.client().list_buckets()["Buckets"]] == before


async def test_a_bucket_deleted_under_us(blobs: FsspecBlobs, s3: S3, bucket: str) -> None:
    await blobs.put("a/b", b"x")
    s3.client().delete_object(Bucket=bucket, Key="house/a/b")
    s3.client().delete_bucket(Bucket=bucket)
    for call in (blobs.put("a/b", b"x"), blobs.get("a/b"), blobs.paths("a")):
        with pytest.raises(EngineRejected, match="no such bucket"):
            await call


@pytest.fixture
def guarded(s3: S3) -> Iterator[None]:
    s3.ask_for_keys(True)
    yield
    s3.ask_for_keys(False)


async def test_a_wrong_key(blobs: FsspecBlobs, guarded: None, bucket: str, tmp_path: Path) -> None:
    for call in (blobs.put("a/b", b"x"), blobs.get("a/b"), blobs.paths("a"), blobs.delete("a")):
        with pytest.raises(EngineRejected, match="credentials are not good") as refused:
            await call
        assert "s3:PutObject" in refused.value.next_step
        assert "secret" not in str(refused.value)
    with pytest.raises(EngineRejected, match="credentials are not good"):
        await build(Settings(data_dir=tmp_path, blobs=f"s3://{bucket}/house"))


async def test_no_key_at_all(bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    blobs = FsspecBlobs(f"s3://{bucket}")
    with pytest.raises(EngineRejected, match="NoCredentialsError"):
        await blobs.put("a/b", b"x")


async def test_an_endpoint_that_is_away_and_comes_back(tmp_path: Path, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process starts without it, says so, and works once it is there."""
    own = made(tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", own.endpoint)
    system = await build(Settings(data_dir=tmp_path, blobs="s3://later/house"))
    house = House(system)
    with pytest.raises(EngineUnavailable, match="is not reached") as away:
        await house.accept("a.txt", "Herons wade.")
    assert "AWS_ENDPOINT_URL" in away.value.next_step
    await asyncio.to_thread(own.start)
    own.client().create_bucket(Bucket="later")
    await house.accept("a.txt", "Herons wade.")
    await asyncio.to_thread(own.stop)
    await house.work_as_workers_do()
    (document,) = await system.documents.page("default", after="", most=5, state=None)
    assert document.state is State.RECEIVED, "it waits: that is not the document's doing"
    assert "is not reached" in [line.detail for line in await system.documents.history(document.id)][-1]
    await system.aclose()


@pytest.fixture
def silent() -> Iterator[str]:
    """An endpoint that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=200) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


async def test_a_slow_store(s3: S3, silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", silent)
    monkeypatch.setattr(object_blobs, "READ_S", 0.1)
    monkeypatch.setattr(object_blobs, "CONNECT_S", 1.0)
    blobs = FsspecBlobs("s3://any/house")
    for call in (blobs.put("a/b", b"x"), blobs.get("a/b"), blobs.paths("a"), blobs.delete("a")):
        with pytest.raises(EngineTimeout, match="did not answer in time") as slow:
            await call
        assert slow.value.next_step


async def test_a_slow_store_holds_no_thread_that_others_need(
    s3: S3, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", silent)
    blobs = FsspecBlobs("s3://any/house")
    calls = [asyncio.create_task(blobs.get("a/b")) for _ in range(100)]
    await asyncio.sleep(0)
    assert await asyncio.to_thread(lambda: "answered") == "answered"
    assert not any(call.done() for call in calls)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


async def test_a_wrong_address(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(EngineUnavailable, match="is not reached"):
        await FsspecBlobs("s3://any/house").get("a/b")


async def test_a_name_that_no_bucket_can_have(s3: S3) -> None:
    with pytest.raises(EngineRejected) as refused:
        await FsspecBlobs("s3://No_Bucket!/house").put("a/b", b"x")
    assert "blobs" in refused.value.next_step


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("ragline.object_blobs.fsspec.core.url_to_fs", absent)
    with pytest.raises(MissingDependency) as refused:
        open_blobs("s3://bucket")
    assert "ragline[s3]" in refused.value.next_step


# ── the error table ──────────────────────────────────────────────────────────────────────────────────────────────────


def answered(code: str) -> Exception:
    """As s3fs raises what S3 answers."""
    said = {"Error": {"Code": code, "Message": "AKIAEXAMPLE may not"}, "ResponseMetadata": {}}
    error: Exception = s3fs.errors.translate_boto_error(botocore.exceptions.ClientError(said, "GetObject"))
    return error


@pytest.mark.parametrize("code", sorted(s3fs.errors.ERROR_CODE_TO_EXCEPTION))
def test_every_answer_is_one_of_our_errors(code: str) -> None:
    told = failure(answered(code), "s3://b/h", "blobs:s3")
    assert isinstance(told, EngineError)
    assert code in told.message
    assert "AKIAEXAMPLE" not in str(told)
    assert told.next_step


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("NoSuchBucket", EngineRejected, "no such bucket"),
        ("AccessDenied", EngineDenied, "credentials"),
        ("InvalidAccessKeyId", EngineDenied, "credentials"),
        ("SignatureDoesNotMatch", EngineDenied, "credentials"),
        ("ExpiredToken", EngineDenied, "credentials"),
        ("RequestTimeTooSkewed", EngineDenied, "clock"),
        ("PermanentRedirect", EngineRejected, "region"),
        ("InvalidObjectState", EngineRejected, "archived"),
        ("SlowDown", EngineUnavailable, "limits"),
        ("503", EngineUnavailable, "limits"),
        ("InternalError", EngineUnavailable, "failed"),
        ("XMinioStorageFull", EngineUnavailable, "full"),
        ("RequestTimeout", EngineTimeout, "in time"),
        ("EntityTooLarge", EngineRejected, "refuses"),
        ("SomethingNew", EngineUnavailable, "did not take the call"),
    ],
)
def test_the_error_table(code: str, kind: type[EngineError], words: str) -> None:
    told = failure(answered(code), "s3://b/h", "blobs:s3")
    assert type(told) is kind
    assert words in told.message


def test_every_error_of_the_client_is_one_of_ours() -> None:
    """And none leaves as it is. That the network failed has rows for each."""
    kinds = [
        kind for _, kind in inspect.getmembers(botocore.exceptions, inspect.isclass)
        if issubclass(kind, botocore.exceptions.BotoCoreError)
    ]  # fmt: skip
    assert len(kinds) > 50
    for kind in kinds:
        error = kind.__new__(kind)
        assert isinstance(error, Exception)
        told = failure(error, "s3://b/h", "blobs:s3")
        assert isinstance(told, EngineError)
        assert kind.__name__ in told.message
        network = issubclass(kind, botocore.exceptions.ConnectionError | botocore.exceptions.HTTPClientError)
        assert not network or isinstance(told, EngineUnavailable | EngineTimeout)
    assert isinstance(failure(RuntimeError("x"), "s3://b/h", "blobs:s3"), EngineError)


# ── the whole ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def opened(tmp_path: Path, bucket: str) -> tuple[System, House]:
    system = await build(Settings(data_dir=tmp_path, blobs=f"s3://{bucket}/house"))
    return system, House(system)


async def test_documents_come_change_and_go(s3: S3, bucket: str, tmp_path: Path) -> None:
    system, house = await opened(tmp_path, bucket)
    otter = await house.accept("otter.txt", "Otters swim in cold rivers.")
    await house.accept("badger.txt", "Badgers dig deep setts.")
    await house.work()
    assert not (tmp_path / "blobs").exists()
    kept = s3.keys(bucket)
    assert sorted({key.rpartition("/")[2].split("-")[0] for key in kept}) == ["chunks", "original", "vectors"]
    await system.aclose()

    system, house = await opened(tmp_path, bucket)
    await house.accept("otter.txt", "Otters sleep on their backs.")
    await house.work()
    await system.epochs.begin("default")
    await system.epochs.fill("default")
    assert await house.found("who sleeps") == ["Otters sleep on their backs.", "Badgers dig deep setts."]
    assert (await system.audit.look()).findings == []
    assert len([key for key in s3.keys(bucket) if key.endswith("/original")]) == 2, "the first bytes are gone"

    await system.documents.delete("default", otter.id)
    await house.work()
    left = s3.keys(bucket)
    assert not [key for key in left if otter.id in key], "every object of it is really gone"
    assert len([key for key in left if key.endswith("/original")]) == 1
    assert (await system.audit.look()).findings == []
    await system.aclose()


async def test_an_audit_finds_what_is_gone_from_the_bucket(s3: S3, bucket: str, tmp_path: Path) -> None:
    system, house = await opened(tmp_path, bucket)
    await house.accept("otter.txt", "Otters swim in cold rivers.")
    await house.work()
    (chunks,) = [key for key in s3.keys(bucket) if "/chunks-" in key]
    s3.client().delete_object(Bucket=bucket, Key=chunks)
    s3.client().put_object(Bucket=bucket, Key=chunks.rpartition("/")[0] + "/stranger", Body=b"x")
    kinds = sorted(str(one.kind) for one in (await system.audit.look()).findings)
    assert kinds == ["missing blob"], "what is younger than ingest.orphan_grace_s may be an upload"
    await system.aclose()
