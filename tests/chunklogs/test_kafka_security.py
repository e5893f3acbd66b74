"""Kafka behind TLS and passwords, on the real broker: what works, and what each mistake is told as."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from ragline.chunklogs.kafka import KafkaChunkLog
from ragline.errors import ConfigurationError, EngineDenied, EngineError, EngineUnavailable
from ragline.testing.chunklogs import messages, take
from tests.engines.elasticsearch_door import certificate
from tests.engines.kafka import PASSWORD, USER, Kafka, broker

LOGIN = f"{USER}:{quote(PASSWORD, safe='')}"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The authority, the broker's own pair, and an authority that has nothing to do with it."""
    authority, pair = certificate(tmp_path_factory.mktemp("authority"))
    stranger, _ = certificate(tmp_path_factory.mktemp("stranger"))
    return authority, pair, stranger


@pytest.fixture(scope="module")
def secured(files: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    with broker(tmp_path_factory.mktemp("kafka-secured"), pair=files[1]) as ours:
        yield ours


@pytest.mark.parametrize("sasl", ["", "&sasl=PLAIN", "&sasl=SCRAM-SHA-256", "&sasl=SCRAM-SHA-512"])
async def test_what_is_appended_is_read(secured: Kafka, files: tuple[Path, Path, Path], sasl: str) -> None:
    prefix = f"house{len(sasl)}{sasl[-3:].strip('&=')}"
    log = KafkaChunkLog(f"kafka://{LOGIN}@{secured.secured}/{prefix}?partitions=3&tls=true&ca={files[0]}{sasl}")
    await log.append("doc_chunks", messages("a"))
    reader = await log.reader("doc_chunks")
    found = await take(reader, 3)
    assert [one.message for one in found] == messages("a")
    await reader.done(found)
    assert set((await log.lag()).values()) == {0}
    await reader.aclose()
    await log.aclose()


@pytest.mark.parametrize(
    ("url", "kind", "words", "step"),
    [
        (f"{USER}:wrong@SECURED?tls=true&ca=AUTHORITY", EngineDenied, "Authentication", "Correct user and password"),
        (f"{USER}:wrong@SECURED?tls=true&ca=AUTHORITY&sasl=SCRAM-SHA-512", EngineDenied, "Authentication", "Correct user"),
        (f"nobody:{LOGIN.partition(':')[2]}@SECURED?tls=true&ca=AUTHORITY", EngineDenied, "Authentication", "Correct user"),
        (f"{LOGIN}@SECURED?tls=true&ca=STRANGER", EngineDenied, "SSLCertVerificationError", "`ca`"),
        (f"{LOGIN}@SECURED?tls=true", EngineDenied, "SSLCertVerificationError", "`ca`"),
        (f"{LOGIN}@NAMED?tls=true&ca=AUTHORITY", EngineDenied, "SSLCertVerificationError", "as their certificate does"),
        (f"{LOGIN}@SECURED", EngineUnavailable, "failed", "`tls` and `sasl`"),
        ("SECURED", EngineUnavailable, "failed", "`tls` and `sasl`"),
        ("SECURED?tls=true&ca=AUTHORITY", EngineUnavailable, "failed", "`tls` and `sasl`"),
        ("PLAIN?tls=true&ca=AUTHORITY", EngineError, "failed", "`tls`"),
        (f"{LOGIN}@PLAIN", EngineError, "failed", "`sasl`"),
    ],
    ids=[
        "password", "password of scram", "user", "authority", "no authority", "name", "no tls", "nothing", "no user",
        "tls to none", "user to none",
    ],
)  # fmt: skip
async def test_a_mistake_is_told_with_what_to_do_next(
    secured: Kafka, files: tuple[Path, Path, Path], url: str, kind: type[EngineError], words: str, step: str
) -> None:
    named = secured.secured.replace("127.0.0.1", "localhost")
    places = {
        "SECURED": secured.secured,
        "PLAIN": secured.hosts,
        "AUTHORITY": files[0],
        "STRANGER": files[2],
        "NAMED": named,
    }
    for name, place in places.items():
        url = url.replace(name, str(place))
    log = KafkaChunkLog(f"kafka://{url}{'&' if '?' in url else '?'}timeout_s=10")
    for call in (lambda: log.lag(), lambda: log.reader("doc_chunks"), lambda: log.append("doc_chunks", messages("a"))):
        with pytest.raises(kind) as refused:
            await call()
        assert words in refused.value.message
        assert step in refused.value.next_step
        assert PASSWORD not in str(refused.value)
    await log.aclose()


def test_a_file_of_authorities_is_looked_at_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    for words in (f"tls=true&ca={tmp_path / 'absent.pem'}", f"tls=true&ca={tmp_path / 'empty.pem'}", "ca=/some/file"):
        with pytest.raises(ConfigurationError, match="ca") as refused:
            KafkaChunkLog(f"kafka://host:9093?{words}")
        assert refused.value.next_step
