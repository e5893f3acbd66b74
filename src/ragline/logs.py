"""Where log lines go: JSON lines for a collector, coloured words for a person; never a text of a document, never a key."""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.typing import EventDict, Processor

from ragline import tracing

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

TALKATIVE = (
    "httpx", "httpcore", "asyncio", "alembic", "fsspec", "faiss.loader", "aiokafka", "elastic_transport", "botocore",
    "urllib3", "python_multipart",
)  # fmt: skip
"""Libraries that tell of every request."""


def configure(level: str) -> None:
    """Send our lines, uvicorn's and every library's to stderr, from `level` on. Called once, by the process's command."""
    terminal = sys.stderr.isatty()
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _whose,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: list[Processor] = (
        [
            structlog.dev.ConsoleRenderer(colors=True, exception_formatter=structlog.dev.plain_traceback)
        ]  # rich shows variables
        if terminal
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # lines are rare here, and a test's settings must reach loggers used before
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.PositionalArgumentsFormatter()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(LEVELS[level])
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    logging.getLogger("uvicorn.error").setLevel(logging.DEBUG if level == "debug" else logging.WARNING)


def _whose(logger: object, method: str, line: EventDict) -> EventDict:
    """The request and the trace that a line belongs to, by which it is found."""
    if request_id := tracing.REQUEST_ID.get():
        line.setdefault("request_id", request_id)
    span = tracing.CURRENT.get()
    if span is not None:
        line["trace_id"], line["span_id"] = span.trace_id, span.span_id
    return line


def _is_news(record: logging.LogRecord) -> bool:
    """The routes have told of a defect by the time uvicorn does."""
    return not record.getMessage().startswith("Exception in ASGI application")
