"""Documents: upload, list, show, original, chunks, why, retry, delete."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.datastructures import UploadFile

from ragline.api.access import Reader, Writer
from ragline.api.models import Accepted, DocumentBrief, json_object
from ragline.api.next_step import next_step
from ragline.api.uploads import UPLOAD, files_of, form_of, uploads_of
from ragline.errors import Forbidden, InvalidRequest, NotFound, Overloaded, RaglineError
from ragline.filters import coerce_metadata, matches, parse_filters
from ragline.registry.acceptance import Accepted as Taken
from ragline.registry.rows import unknown_document
from ragline.system import System
from ragline.types import Caller, Document, Namespace, Scope, State, Upload

router = APIRouter(prefix="/v1/namespaces/{namespace}/documents", tags=["documents"])

PAGE = 500
"""Documents read from the registry at a time."""


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
    async with form_of(request) as form:
        files, uploads = files_of(form), uploads_of(form)
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
        DocumentBrief(uri=item.uri, state="refused", reason=str(result), retryable=result.retryable)
        if isinstance(result, RaglineError)
        else _brief(documents[result.document.id], result.outcome)
        for item, result in zip(uploads, results, strict=True)
    ]
    return Accepted(documents=briefs, sequence=sequence)


@router.get("")
async def list_documents(
    namespace: str, request: Request, caller: Reader, state: State | None = None, uri: str | None = None,
    inside: bool | None = None, cursor: str = "", limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:  # fmt: skip
    """By id; `next` is the cursor of the next page, or null. `inside`: only files that lie in other documents, or only the
    others.

    Page and cursor are made of what the caller may read alone: neither tells that there is anything else.
    """
    system: System = request.app.state.system
    await system.namespaces.get(namespace)
    most = max(limit + 1, PAGE) if caller.role == "read" else limit + 1
    found: list[Document] = []
    after = cursor
    while len(found) <= limit:  # one more than is shown: it tells whether there is a next page
        page = await system.documents.page(namespace, after=after, most=most, state=state, uri=uri, inside=inside)
        found += [document for document in page if _listed(document, caller)]
        if len(page) < most:
            break
        after = page[-1].id
    shown = found[:limit]
    return {
        "documents": [_full(system, document) for document in shown],
        "next": shown[-1].id if len(found) > limit else None,
    }


@router.delete("")
async def delete_by_filter(
    namespace: str, request: Request, _: Writer, filters: str, dry_run: bool = False
) -> dict[str, Any]:
    """Delete every document whose metadata matches `filters` (JSON, as in a search).

    `deleted`: the ids of all that went; `inside`: how many of these lay in others. What lies in a document has its metadata.
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
    deleted, inside, sequence, after = list[str](), set[str](), found.sequence, ""
    while page := await system.documents.page(namespace, after=after, most=PAGE, state=None):
        after = page[-1].id
        for document in page:
            if document.id in inside:  # gone with what it lay in, and counted
                continue
            try:
                fields = coerce_metadata(document.metadata, asked)
                if not matches(fields, frozenset(), Scope(conditions=conditions)):
                    continue
                if not dry_run:
                    gone = await system.documents.delete(namespace, document.id)
                    sequence = gone.document.revision
                    deleted += gone.inside
                    inside.update(gone.inside)
            except (InvalidRequest, NotFound):  # of another type than asked for; or somebody else deleted it
                continue
            deleted.append(document.id)
            if document.parent is not None:
                inside.add(document.id)
    return {"deleted": deleted, "inside": len(inside), "sequence": sequence, "dry_run": dry_run}


@router.get("/{document}")
async def show_document(namespace: str, document: str, request: Request, caller: Reader) -> dict[str, Any]:
    """What is known of it. `progress`: how far this process is with it, null when it is not at it.

    Progress is kept in the memory of the process that works; where workers run elsewhere it is null here.
    """
    return _full(request.app.state.system, await _get(request, namespace, document, caller))


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
    """The document's whole story: each change, each attempt, how long it took, which limit it met, and what happens next.

    `next_at`, in seconds since 1970, is when that is, at the latest; null: at once, in its turn, or never.
    """
    system: System = request.app.state.system
    found = await _get(request, namespace, document, caller)
    story = await system.documents.history(found.id)
    step = await next_step(system, found)
    return {
        **_full(system, found), "next": step.words, "next_at": step.at,
        "history": [asdict(entry) for entry in story],
    }  # fmt: skip


@router.post("/{document}/retry", status_code=202)
async def retry(namespace: str, document: str, request: Request, _: Writer) -> dict[str, Any]:
    """Parse the same bytes again, as a new content."""
    system: System = request.app.state.system
    return _full(system, await system.documents.retry(namespace, document))


@router.delete("/{document}")
async def delete_document(namespace: str, document: str, request: Request, _: Writer) -> dict[str, Any]:
    """Not served from this moment on. `inside`: how many files lay in it, and went with it."""
    system: System = request.app.state.system
    done = await system.documents.delete(namespace, document)
    gone = done.document
    return {
        "id": gone.id, "uri": gone.uri, "state": gone.state, "sequence": gone.revision, "inside": len(done.inside),
    }  # fmt: skip


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


def _progress(system: System, document: Document) -> dict[str, Any] | None:
    work = system.ingest.in_work.get(document.id)
    if work is None:
        return None
    shown = ("stage", "done", "total", "attempt", "begun_at")
    return {name: getattr(work, name) for name in shown}


def _brief(document: Document, outcome: str) -> DocumentBrief:
    return DocumentBrief(
        id=document.id, uri=document.uri, revision=document.revision, state=document.state, reason=document.reason,
        outcome=outcome,
    )  # fmt: skip


def _full(system: System, document: Document) -> dict[str, Any]:
    hidden = ("blob", "live_blob", "garbage", "sweep", "given_title")
    shown = {name: value for name, value in asdict(document).items() if name not in hidden}
    return {**shown, "groups": sorted(document.groups), "progress": _progress(system, document)}
