"""What every job store, and the job path, say of a job that is not there, or that is somebody else's: the same words."""

from __future__ import annotations

from ragline.errors import NotFound


def unknown_job(id: str) -> NotFound:
    return NotFound(f"Job {id[:80]!r} does not exist.", next_step="List yours with GET /v1/jobs.")
