"""`ragline webhooks` and `ragline ask --async --webhook`, as a user types them."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import ragline, up
from tests.receiving import Answer, receiving

QUESTION = ("How", "many", "days", "to", "return", "an", "unopened", "item?")
SETTINGS = """
[webhooks]
allow_http = true
allow_networks = ["127.0.0.0/8"]
attempts = 1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """With a document, and a server that works on jobs."""
    folder = tmp_path_factory.mktemp("webhooks")
    (folder / "returns.md").write_text("# Returns\n\nCustomers may return an unopened item within 30 days.")
    (folder / "ragline.toml").write_text(SETTINGS)
    with up(folder):
        assert ragline("ingest", "returns.md", cwd=folder).code == 0
        yield folder


async def test_asked_told_given_up_replayed(folder: Path) -> None:
    """The receiver runs here while the commands run elsewhere."""
    async with receiving(Answer(500), Answer(204)) as receiver:

        async def run(*arguments: str) -> str:
            done = await asyncio.to_thread(ragline, *arguments, cwd=folder)
            assert done.code == 0, done.err
            return done.out

        job = (await run("ask", "--async", "--webhook", receiver.url(), *QUESTION)).strip()
        await run("jobs", "watch", job)
        async with asyncio.timeout(60):
            while not json.loads(await run("webhooks", "list", "--state", "dead", "--json"))["deliveries"]:
                pass
        listed = await run("webhooks", "list")
        assert f"msg_{job}" in listed
        assert "It answered 500." in listed
        assert f"Delivery msg_{job} is due at once." in await run("webhooks", "replay", f"msg_{job}")
        await receiver.until(lambda: len(receiver.got) == 2)
        secret = (await run("webhooks", "secret")).strip()
        for got in receiver.got:
            assert got.verified(secret)["data"]["job_id"] == job


def test_where_it_may_not_go_and_what_is_not_there(folder: Path) -> None:
    refused = ragline("ask", "--async", "--webhook", "http://169.254.169.254/", *QUESTION, cwd=folder)
    assert refused.code == 1
    assert "public address" in refused.err
    unknown = ragline("webhooks", "replay", "msg_none", cwd=folder)
    assert unknown.code == 1
    assert "ragline webhooks list" in unknown.err


def test_a_secret_is_changed_in_two_steps(tmp_path: Path) -> None:
    folder = tmp_path / ".ragline"
    nothing = ragline("webhooks", "secret", cwd=tmp_path)
    assert (nothing.code, "ragline up" in nothing.err) == (2, True)
    folder.mkdir()
    (old,) = ragline("webhooks", "secret", "--json", cwd=tmp_path).json["secrets"]
    assert ragline("webhooks", "secret", "--json", cwd=tmp_path).json["secrets"] == [old]
    new, kept = ragline("webhooks", "secret", "--rotate", cwd=tmp_path).out.split()
    assert kept == old
    assert new != old
    assert ragline("webhooks", "secret", "--retire", cwd=tmp_path).out.split() == [new]
    assert stat.S_IMODE((folder / "webhook_secrets").stat().st_mode) == 0o600
    made = ragline("webhooks", "secret", "--new", cwd=tmp_path).out.strip()
    assert made.startswith("whsec_")
    assert ragline("webhooks", "secret", cwd=tmp_path).out.split() == [new]
    assert ragline("webhooks", "secret", "--new", "--rotate", cwd=tmp_path).code == 2
    (folder / "webhook_secrets").write_text("whsec_short\n")
    damaged = ragline("webhooks", "secret", cwd=tmp_path)
    assert (damaged.code, "whsec_short" in damaged.err) == (2, False)


def test_secrets_of_the_settings(tmp_path: Path) -> None:
    ours = json.dumps([ragline("webhooks", "secret", "--new", cwd=tmp_path).out.strip() for _ in range(2)])
    shown = ragline("webhooks", "secret", "--json", cwd=tmp_path, RAGLINE_WEBHOOKS__SECRETS=ours)
    assert shown.json["secrets"] == json.loads(ours)
    refused = ragline("webhooks", "secret", "--rotate", cwd=tmp_path, RAGLINE_WEBHOOKS__SECRETS=ours)
    assert (refused.code, "in the settings" in refused.err) == (2, True)
    wrong = ragline("webhooks", "secret", cwd=tmp_path, RAGLINE_WEBHOOKS__SECRETS='["whsec_c2hvcnQ="]')
    assert (wrong.code, "webhooks" in wrong.err, "c2hvcnQ" in wrong.err) == (2, True, False)


def test_the_role_alone_needs_a_secret(tmp_path: Path) -> None:
    servers: dict[str, Any] = {
        f"RAGLINE_{name}": "postgresql://nobody@127.0.0.1:1/none" for name in ("REGISTRY", "VECTORS")
    } | {"RAGLINE_KEYWORDS": "elasticsearch://127.0.0.1:1", "RAGLINE_BLOBS": str(tmp_path)}  # fmt: skip
    refused = ragline("work", "webhooks", cwd=tmp_path, **servers)
    assert (refused.code, "webhooks.secrets" in refused.err) == (2, True)
    alone = ragline("work", "webhooks", cwd=tmp_path)
    assert (alone.code, "belong to one process" in alone.err) == (2, True)


def test_doctor_says_what_signs_and_what_is_dead(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("A document.")
    assert ragline("ingest", "a.md", cwd=tmp_path).code == 0
    assert _webhooks(tmp_path)["state"] == "ok"
    assert "made with the first" in _webhooks(tmp_path)["detail"]
    ragline("webhooks", "secret", "--rotate", cwd=tmp_path)
    assert _webhooks(tmp_path)["detail"] == "2 secrets sign; none is dead"


def _webhooks(folder: Path) -> dict[str, str]:
    told = ragline("doctor", "--json", cwd=folder).json
    found: dict[str, str] = next(one for one in told["findings"] if one["part"] == "webhooks")
    return found
