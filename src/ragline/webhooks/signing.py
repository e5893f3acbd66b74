"""What deliveries are signed with, by the Standard Webhooks specification and its own library: receivers verify by the same.

Several secrets sign while one is changed for another, so that a receiver may take the new one whenever it likes.
"""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from standardwebhooks.webhooks import Webhook

from ragline.errors import ConfigurationError, InvalidRequest
from ragline.settings import Settings, is_webhook_secret

SECRET_BYTES = 32

FILE = "webhook_secrets"
"""In the data folder: one secret a line, the newest first."""


class Signing:
    """The secrets of `webhooks.secrets`; without any, those of the data folder, where the jobs are in it. Read at each use: a
    command may have changed them."""

    def __init__(self, settings: Settings) -> None:
        self._given = tuple(one.get_secret_value() for one in settings.webhooks.secrets)
        self.file = None if self._given or settings.jobs_url else settings.data_dir.absolute() / FILE

    @property
    def possible(self) -> bool:
        """Whether there is a secret, or one can be made."""
        return bool(self._given or self.file)

    def must_be_possible(self) -> None:
        """Of a question that is to be accepted. Raises InvalidRequest, field ``webhook``."""
        if not self.possible:
            raise InvalidRequest(
                "webhook: this server has no secret to sign it with.",
                next_step="Leave it out, and follow `events_url`; or have the operator set webhooks.secrets: "
                "`ragline webhooks secret --new` makes one.",
                field="webhook",
            )

    async def secrets(self) -> Sequence[str]:
        """The newest first; at least one. Raises ConfigurationError."""
        if self._given:
            return self._given
        if self.file is None:
            raise ConfigurationError("webhooks.secrets: it is not set.", next_step=SET_ONE)
        return await asyncio.to_thread(kept, self.file)

    async def headers(self, id: str, body: bytes, *, at: float) -> dict[str, str]:
        """`at`: seconds since 1970, of this try. Raises ConfigurationError."""
        when, text = datetime.fromtimestamp(int(at), UTC), body.decode()
        signatures = [Webhook(secret).sign(id, when, text) for secret in await self.secrets()]
        return {
            "webhook-id": id, "webhook-timestamp": str(int(at)), "webhook-signature": " ".join(signatures),
        }  # fmt: skip


SET_ONE = "Make one with `ragline webhooks secret --new`; set it for every process: RAGLINE_WEBHOOKS__SECRETS='[\"whsec_…\"]'."


def made() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def kept(file: Path) -> Sequence[str]:
    """Those of the file; the first is made where there is none. Raises ConfigurationError."""
    try:
        found = file.read_text("ascii").split()
    except FileNotFoundError:
        return keep(file, [made()])
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"{file} cannot be read: {error}.", next_step="Let this user read it.") from error
    if not found or not all(is_webhook_secret(one) for one in found):
        raise ConfigurationError(
            f"{file} holds something else than secrets, whsec_…, one a line.",
            next_step="Bring it back from a copy; or delete it, and give receivers the new one of `ragline webhooks secret`.",
        )
    return found


def keep(file: Path, some: Sequence[str]) -> Sequence[str]:
    """Write them, readable to this user alone, whole or not at all. Raises ConfigurationError."""
    half = file.with_suffix(".half")
    try:
        with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as written:
            written.write("".join(f"{one}\n" for one in some))
            written.flush()
            os.fsync(written.fileno())
        half.replace(file)
    except OSError as error:
        raise ConfigurationError(
            f"{file} cannot be written: {error}.", next_step="Let this user write there."
        ) from error
    return some
