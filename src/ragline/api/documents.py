"""Documents: upload, list, show, original, chunks, why, retry, delete."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.datastructures import FormData, UploadFile

from ragline.api.access import Reader, Writer
from ragline.api.models import Accepted, DocumentBrief, check_encodable, json_object, json_value
from ragline.errors import Forbidden, InvalidRequest, NotFound, Overloaded, RaglineError
from ragline.filters import coerce_metadata, matches, parse_filters
from ragline.registry.documents import Accepted as Taken
from ragline.registry.rows import unknown_document
from ragline.system import System
from ragline.types import Caller, Document, Namespace, Scope, State, Upload

router = APIRouter(prefix="/v1/namespaces/{namespace}/documents", tags=["documents"])

MOST_FILES = 1000
"""Files in one request; more come in more requests."""

MOST_CHARACTERS = 2_000
"""Of a uri or a title: they go with every chunk and every passage."""

PAGE = 500
"""Documents read from the registry at a time."""

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
    },
}
UPLOAD = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}}


@router.post("", status_code=202, response_model=Accepted, response_model_exclude_none=True, openapi_extra=UPLOAD)
async def upload(
    namespace: str, request: Request, response: Response, _: Writer, wait: bool = False,
    wait_s: Annotated[float, Query(gt=0, le=3600, allow_inf_nan=False)] = 300.0,
) -> Accepted:  # fmt: skip
    """Accept files: 202 once their bytes are safe, or, with `wait`, 200 once every one is indexed or failed.

    A file that cannot be accepted has the state `refused` and its reason; the others are not touched by it.
    """
    system: System = request.app.state.system
    found = await system.namespaces.get(namespace)
    await _check_room(system)
    async with _form(request) as form:
        files, uploads = _files(form), _uploads(form)
        results = await asyncio.gather(*(_accept(system, found, *pair) for pair in zip(files, uploads, strict=True)))
    taken = [result for result in results if not isinstance(result, RaglineError)]
    if not taken:
        raise next(result for result in results if isinstance(result, RaglineError))
    sequence = max(accepted.sequence for accepted in taken)
    documents = {accepted.document.id: accepted.document for accepted in taken}
    if wait:
        revisions = {document.id: document.revision for document in documents.values()}
        if await system.documents.settled_all(revisions, deadline_s=wait_s):
            response.status_code = 200
        documents = {id: await system.documents.look(id) or document for id, document in documents.items()}
    briefs = [
        DocumentBrief(uri=item.uri, state="refused", reason=str(result))
        if isinstance(result, RaglineError)
        else _brief(documents[result.document.id], result.outcome)
        for item, result in zip(uploads, results, strict=True)
    ]
    return Accepted(documents=briefs, sequence=sequence)


@router.get("")
async def list_documents(
    namespace: str, request: Request, caller: Reader, state: State | None = None, uri: str | None = None,
    cursor: str = "", limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:  # fmt: skip
    """By id; `next` is the cursor of the next page, or null.

    Page and cursor are made of what the caller may read alone: neither tells that there is anything else.
    """
    system: System = request.app.state.system
    await system.namespaces.get(namespace)
    most = max(limit + 1, PAGE) if caller.role == "read" else limit + 1
    found: list[Document] = []
    after = cursor
    while len(found) <= limit:  # one more than is shown: it tells whether there is a next page
        page = await system.documents.page(namespace, after=after, most=most, state=state, uri=uri)
        found += [document for document in page if _listed(document, caller)]
        if len(page) < most:
            break
        after = page[-1].id
    shown = found[:limit]
    return {
        "documents": [_full(document) for document in shown],
        "next": shown[-1].id if len(found) > limit else None,
    }


@router.delete("")
async def delete_by_filter(
    namespace: str, request: Request, _: Writer, filters: str, dry_run: bool = False
) -> dict[str, Any]:
    """Delete every document whose metadata matches `filters` (JSON, as in a search).

    A document whose metadata is not of the declared types, because they were declared later, does not match.
    """
    system: System = request.app.state.system
    found = await system.namespaces.get(namespace)
    conditions = parse_filters(json_object(filters, "filters"), found.settings.fields)
    if not conditions:
        raise InvalidRequest(
            "filters is empty: that would delete everything.",
            next_step=f"To delete everything, DELETE /v1/namespaces/{namespace}.",
            field="filters",
        )
    asked = {condition.field: found.settings.fields[condition.field] for condition in conditions}
    deleted, sequence, after = [], found.sequence, ""
    while page := await system.documents.page(namespace, after=after, most=PAGE, state=None):
        after = page[-1].id
        for document in page:
            try:
                fields = coerce_metadata(document.metadata, asked)
                if not matches(fields, frozenset(), Scope(conditions=conditions)):
                    continue
                if not dry_run:
                    sequence = (await system.documents.delete(namespace, document.id)).revision
            except (InvalidRequest, NotFound):  # of another type than asked for; or somebody else deleted it
                continue
            deleted.append(document.id)
    return {"deleted": deleted, "sequence": sequence, "dry_run": dry_run}


@router.get("/{document}")
async def show_document(namespace: str, document: str, request: Request, caller: Reader) -> dict[str, Any]:
    return _full(await _get(request, namespace, document, caller))


@router.get("/{document}/original")
async def original(namespace: str, document: str, request: Request, caller: Reader) -> Response:
    """The bytes as they arrived, as an attachment: for who may read them, and for admins."""
    system: System = request.app.state.system
    found = await _get_content(request, namespace, document, caller)
    assert found.blob
    data = await system.contents.original(await system.namespaces.get(namespace), found.id, found.blob)
    headers = {"Content-Disposition": "attachment", "X-Content-Type-Options": "nosniff"}
    return Response(data, media_type=found.media_type or "application/octet-stream", headers=headers)


@router.get("/{document}/chunks")
async def chunks(namespace: str, document: str, request: Request, caller: Reader) -> dict[str, Any]:
    """The live content's chunks, in order: for who may read them, and for admins."""
    system: System = request.app.state.system
    found = await _get_content(request, namespace, document, caller)
    content = None
    if found.live is not None and found.live_blob is not None:
        holder = await system.namespaces.get(namespace)
        content = await system.contents.get(holder, found, found.live_blob, found.live)
    if content is None or found.live is None:
        raise NotFound(
            f"Document {document} has no live content: {found.reason or found.state}.",
            next_step=f"Ask why with `ragline documents why {document}`.",
        )
    return {"content": found.live, "chunks": [asdict(chunk) for chunk in content.chunks(found, found.live)]}


@router.get("/{document}/why")
async def why(namespace: str, document: str, request: Request, caller: Reader) -> dict[str, Any]:
    """The document's whole story: each change, each attempt, how long it took, and what happens next."""
    system: System = request.app.state.system
    found = await _get(request, namespace, document, caller)
    story = await system.documents.history(found.id)
    return {**_full(found), "next": _next(found), "history": [asdict(entry) for entry in story]}


@router.post("/{document}/retry", status_code=202)
async def retry(namespace: str, document: str, request: Request, _: Writer) -> dict[str, Any]:
    """Parse the same bytes again, as a new content."""
    system: System = request.app.state.system
    return _full(await system.documents.retry(namespace, document))


@router.delete("/{document}")
async def delete_document(namespace: str, document: str, request: Request, _: Writer) -> dict[str, Any]:
    """Not served from this moment on."""
    system: System = request.app.state.system
    gone = await system.documents.delete(namespace, document)
    return {"id": gone.id, "uri": gone.uri, "state": gone.state, "sequence": gone.revision}


async def _get(request: Request, namespace: str, id: str, caller: Caller) -> Document:
    """Raises NotFound, also where the caller's groups may not read it: what may not be read is not shown to exist."""
    system: System = request.app.state.system
    found = await system.documents.get(namespace, id)
    if not _listed(found, caller):
        raise unknown_document(id, namespace)
    return found


async def _get_content(request: Request, namespace: str, id: str, caller: Caller) -> Document:
    """As `_get`, for what stands in the document. Raises NotFound, Forbidden: a writer whose groups may not read it."""
    found = await _get(request, namespace, id, caller)
    if caller.role != "admin" and not _in_groups(found, caller):
        raise Forbidden(
            f"The key of {caller.principal} is of none of the groups of document {id}.",
            next_step="Use a key with one of its groups, or an admin's.",
        )
    return found


def _listed(document: Document, caller: Caller) -> bool:
    """Writers see the entries of all documents, contents only by their groups; admins see all; readers go by groups."""
    return caller.role != "read" or _in_groups(document, caller)


def _in_groups(document: Document, caller: Caller) -> bool:
    return not document.groups or not document.groups.isdisjoint(caller.groups)


async def _check_room(system: System) -> None:
    waiting, most = await system.documents.waiting(), system.settings.ingest.max_waiting
    if waiting >= most:
        raise Overloaded(
            f"{waiting} documents are waiting; the limit is {most}.",
            next_step="Send this again later; `ragline documents list --state received` shows what waits.",
            retry_after_s=10,
        )


async def _accept(system: System, namespace: Namespace, file: UploadFile, item: Upload) -> Taken | RaglineError:
    try:
        data = await file.read()
        return await system.ingest.accept(namespace, replace(item, data=data))
    except RaglineError as error:
        return error


@asynccontextmanager
async def _form(request: Request) -> AsyncIterator[FormData]:
    """Raises InvalidRequest."""
    try:
        form = await request.form(max_files=MOST_FILES, max_fields=4 * MOST_FILES)
    except UnicodeError as error:  # a charset that decodes nothing, or not this
        raise InvalidRequest(
            "The form cannot be read in the charset it names.", next_step="Send it as UTF-8.", field="body"
        ) from error
    try:
        yield form
    finally:
        await form.close()


def _files(form: FormData) -> list[UploadFile]:
    files = [part for part in form.getlist("file") if isinstance(part, UploadFile)]
    if not files:
        raise InvalidRequest(
            "The request holds no file.", next_step="Send multipart/form-data with parts named `file`.", field="file"
        )
    return files


def _uploads(form: FormData) -> list[Upload]:
    """What the form says about each file, without its bytes."""
    files = _files(form)
    metadata = _metadata(form, len(files))
    groups = frozenset(_groups(form))
    uris = _each(form, "uri", len(files), [file.filename or "" for file in files])
    titles = _each(form, "title", len(files), [""] * len(files))
    check_encodable([file.content_type for file in files], "media_type")
    for name, texts in (("uri", uris), ("title", titles)):
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
        Upload(uri=uri, data=b"", title=title or None, media_type=file.content_type, metadata=words, groups=groups)
        for file, uri, title, words in zip(files, uris, titles, metadata, strict=True)
    ]


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


def _next(document: Document) -> str:
    if document.state is State.FAILED:
        return f"Nothing by itself: mend the cause, then upload it again or `ragline documents retry {document.id}`."
    if document.settled < document.revision:
        return "Work is due: a worker claims it, or is at it now."
    return "Nothing: what was accepted last is served."


def _brief(document: Document, outcome: str) -> DocumentBrief:
    return DocumentBrief(
        id=document.id, uri=document.uri, revision=document.revision, state=document.state, reason=document.reason,
        outcome=outcome,
    )  # fmt: skip


def _full(document: Document) -> dict[str, Any]:
    hidden = ("blob", "live_blob", "garbage", "sweep", "given_title")
    shown = {name: value for name, value in asdict(document).items() if name not in hidden}
    return {**shown, "groups": sorted(document.groups)}
