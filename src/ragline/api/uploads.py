"""The multipart form of an upload: read whole, checked whole, before any file is accepted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from ragline.api.models import check_encodable, json_object, json_value
from ragline.errors import InvalidRequest, RaglineError, TooLarge
from ragline.types import Upload

MOST_FILES = 1000
"""Files in one request; more come in more requests."""

MOST_FIELD_BYTES = 16 << 20
"""Of one field that is no file. Far above ingest.max_metadata_bytes, so that metadata too large is told by that name."""

MOST_CHARACTERS = 2_000
"""Of a uri or a title: they go with every chunk and every passage."""

_TEXTS = {"type": "array", "items": {"type": "string"}}
_FORM = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "array", "items": {"type": "string", "format": "binary"}},
        "uri": {**_TEXTS, "description": "One for each file; left out: the file names."},
        "title": {**_TEXTS, "description": "One for each file; left out: found in the file."},
        "metadata": {**_TEXTS, "description": "A JSON object: one for every file of the request, or one each."},
        "groups": {**_TEXTS, "description": "Who may read them; none: everyone in the namespace."},
        "source": {"type": "string", "description": "The sync that brings them; its documents it alone changes."},
        "version": {**_TEXTS, "description": "With `source`: what tells this state of a file; one for each file."},
    },
}
UPLOAD = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}}


@asynccontextmanager
async def form_of(request: Request) -> AsyncIterator[FormData]:
    """Raises InvalidRequest."""
    try:
        form = await request.form(max_files=MOST_FILES, max_fields=4 * MOST_FILES, max_part_size=MOST_FIELD_BYTES)
    except HTTPException as error:
        if isinstance(error.__cause__, RaglineError):  # the whole body is over its limit
            raise
        raise _unreadable(error) from error
    except UnicodeError as error:  # a charset that decodes nothing, or not this
        raise InvalidRequest(
            "The form cannot be read in the charset it names.", next_step="Send it as UTF-8.", field="body"
        ) from error
    try:
        yield form
    finally:
        await form.close()


def _unreadable(error: HTTPException) -> InvalidRequest:
    """What the reader of forms says, in words that name the next step."""
    if error.detail.startswith("Part exceeded"):
        return TooLarge(
            f"A field of the form is over {MOST_FIELD_BYTES >> 20} MiB.",
            next_step="Put long values into the document; files go into parts with a file name.",
            field="body",
        )
    return InvalidRequest(
        f"The form cannot be read: {error.detail.rstrip('.')}.",
        next_step="Send multipart/form-data with parts named `file`, as /docs shows it.",
        field="body",
    )


def files_of(form: FormData) -> list[UploadFile]:
    files = [part for part in form.getlist("file") if isinstance(part, UploadFile)]
    if not files:
        raise InvalidRequest(
            "The request holds no file.", next_step="Send multipart/form-data with parts named `file`.", field="file"
        )
    return files


def uploads_of(form: FormData) -> list[Upload]:
    """What the form says about each file, without its bytes."""
    files = files_of(form)
    metadata = _metadata(form, len(files))
    groups = frozenset(_groups(form))
    uris = _each(form, "uri", len(files), [file.filename or "" for file in files])
    titles = _each(form, "title", len(files), [""] * len(files))
    source, versions = _source(form), _each(form, "version", len(files), [""] * len(files))
    check_encodable([file.content_type for file in files], "media_type")
    for name, texts in (("uri", uris), ("title", titles), ("version", versions), ("source", [source or ""])):
        check_encodable(texts, name)
        if any(len(text) > MOST_CHARACTERS for text in texts):
            raise InvalidRequest(
                f"A {name} has {max(map(len, texts)):,} characters.",
                next_step=f"Send at most {MOST_CHARACTERS:,}.",
                field=name,
            )
    if not all(uri.strip() for uri in uris):
        raise InvalidRequest("A file has no name.", next_step="Send `uri`, one for each file.", field="uri")
    if twice := [uri for uri, count in Counter(uris).items() if count > 1]:
        raise InvalidRequest(
            f"The uri {twice[0]!r} is that of two files of this request, and only one can stand.",
            next_step="Send one of them, or give each its own `uri`.",
            field="uri",
        )
    return [
        Upload(uri=uri, data=b"", title=title or None, media_type=file.content_type, metadata=words, groups=groups,
               source=source, version=version)
        for file, uri, title, words, version in zip(files, uris, titles, metadata, versions, strict=True)
    ]  # fmt: skip


def _source(form: FormData) -> str | None:
    """One for the whole request."""
    given = [_text(value, "source") for value in form.getlist("source")]
    if len(given) > 1 or not all(name.strip() for name in given):
        raise InvalidRequest("source must be one name.", next_step="Send one, or none.", field="source")
    return given[0] if given else None


def _text(value: UploadFile | str, name: str) -> str:
    """A field of the form. Raises InvalidRequest naming it: a file; a text that is not fit for UTF-8."""
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} was sent as a file.", next_step="Send it as a field of the form.", field=name)
    check_encodable(value, name)
    return value


def _each(form: FormData, name: str, count: int, default: list[str]) -> list[str]:
    given = [_text(value, name) for value in form.getlist(name)]
    if given and len(given) != count:
        raise InvalidRequest(
            f"{len(given)} values of {name} for {count} files.",
            next_step=f"Send one {name} a file, or none.",
            field=name,
        )
    return given or default


def _metadata(form: FormData, count: int) -> list[dict[str, Any]]:
    """One object for every file, or one each."""
    given = [json_object(_text(value, "metadata") or "{}", "metadata") for value in form.getlist("metadata")]
    for words in given:
        _check_metadata(words)
    if len(given) == 1:
        return given * count
    if given and len(given) != count:
        raise InvalidRequest(
            f"{len(given)} values of metadata for {count} files.", next_step="Send one for all, or one a file.",
            field="metadata",
        )  # fmt: skip
    return given or [{}] * count


def _check_metadata(words: dict[str, Any]) -> None:
    """What every registry and every engine can hold: flat. Raises InvalidRequest naming the key."""
    for name, value in words.items():
        if not all(map(_is_scalar, value if isinstance(value, list) else [value])):
            raise InvalidRequest(
                f"metadata.{name[:80]} is not a JSON scalar or a flat list of them, in 64 bits.",
                next_step="Send texts, numbers, true, false or null, or a list of these.",
                field=f"metadata.{name[:80]}",
            )


def _is_scalar(value: object) -> bool:
    match value:
        case bool() | str() | None:
            return True
        case int():
            return -(2**63) <= value < 2**63
        case float():
            return math.isfinite(value)  # 1e999 is infinite
        case _:
            return False


def _groups(form: FormData) -> Iterator[str]:
    """`groups` may be repeated, or be one JSON list."""
    for value in (_text(given, "groups") for given in form.getlist("groups")):
        names = json_value(value, "groups") if value.lstrip().startswith("[") else [value]
        if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
            raise InvalidRequest("groups must be names.", next_step='Send them as ["a", "b"].', field="groups")
        yield from names
