"""Namespaces and their epochs: what a query reads, once, before it does anything else."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    LABEL_STYLE_TABLENAME_PLUS_COL,
    ColumnElement,
    Connection,
    Update,
    delete,
    func,
    insert,
    select,
    update,
)

from ragline.clock import Clock
from ragline.connections.database import Database
from ragline.errors import Conflict, InvalidRequest, NotFound
from ragline.registry.rows import WHOLE, purge
from ragline.registry.tables import documents, epochs, history, namespaces, synced
from ragline.types import Epoch, FieldType, Fusion, Namespace, NamespaceSettings, Space

PLANNED_FOR_S = 3600.0
"""How long the collections of an epoch may take to be made before it counts as abandoned."""

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class Namespaces:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def plan_epoch(self, name: str, space: Space, fields: Mapping[str, FieldType]) -> Epoch:
        """Write down an epoch whose collections are about to be made; `retired` finds it if nothing comes of it.

        Raises:  InvalidRequest: the name.
        """
        if not NAME.fullmatch(name):
            raise InvalidRequest(
                f"namespace {name[:80]!r} is not a valid name.",
                next_step="Use 1 to 63 lower-case letters, digits, - and _, beginning with a letter or a digit.",
                field="namespace",
            )

        def work(connection: Connection) -> Epoch:
            now = self._clock.now()
            uid = connection.execute(select(namespaces.c.uid).where(namespaces.c.name == name)).scalar()
            uid = uid or secrets.token_hex(4)
            rows = connection.execute(select(epochs.c.label).where(epochs.c.namespace == name, epochs.c.uid == uid))
            label = _label(now, {row.label for row in rows})
            collection = f"{name}-{uid}-{label}"
            epoch = Epoch(name, uid, label, collection, collection, space, fields)
            connection.execute(insert(epochs).values(**asdict(epoch), created_at=now, drop_after=now + PLANNED_FOR_S))
            return epoch

        return await self._database.write(work)

    async def create(self, settings: NamespaceSettings, epoch: Epoch) -> Namespace:
        """Make the namespace, with its first epoch, whose collections are there. Raises Conflict: it exists."""
        name = epoch.namespace

        def work(connection: Connection) -> None:
            if connection.execute(select(namespaces.c.name).where(namespaces.c.name == name)).first():
                raise Conflict(f"Namespace {name} exists.", next_step="Use it, or change its settings with PATCH.")
            connection.execute(
                insert(namespaces).values(
                    name=name, uid=epoch.uid, sequence=0, visible=0, settings=asdict(settings), epoch=epoch.label,
                    building=None, created_at=self._clock.now(),
                )
            )  # fmt: skip
            connection.execute(_set_drop_after(epoch, None))

        await self._database.write(work)
        return await self.get(name)

    async def get(self, name: str) -> Namespace:
        """Raises NotFound."""
        found = await self._select(name)
        if not found:
            raise NotFound(
                f"Namespace {name[:80]!r} does not exist.",
                next_step="Create it with PUT /v1/namespaces/NAME, or `ragline ingest PATH --namespace NAME`.",
            )
        return found[0]

    async def all(self) -> list[Namespace]:
        return await self._select(None)

    async def configure(self, name: str, settings: NamespaceSettings) -> Namespace:
        def work(connection: Connection) -> None:
            row = connection.execute(select(namespaces).where(namespaces.c.name == name).with_for_update()).first()
            _must(row is not None, name)
            assert row is not None
            visible = row.visible + 1
            connection.execute(
                update(namespaces).where(namespaces.c.name == name).values(settings=asdict(settings), visible=visible)
            )
            if row.settings.get("public"):  # not any more, maybe; else other weights rank what the edge holds
                purge(connection, self._clock.now(), row.uid, visible, [WHOLE])

        await self._database.write(work)
        return await self.get(name)

    async def delete(self, name: str) -> None:
        """Forget the namespace and its documents at once; its collections and blobs go with `retired`."""

        def work(connection: Connection) -> None:
            gone = connection.execute(
                delete(namespaces)
                .where(namespaces.c.name == name)
                .returning(namespaces.c.uid, namespaces.c.visible, namespaces.c.settings)
            ).first()
            _must(gone is not None, name)
            assert gone is not None
            if gone.settings.get("public"):
                purge(connection, self._clock.now(), gone.uid, gone.visible + 1, [WHOLE])
            ids = select(documents.c.id).where(documents.c.namespace == name)
            connection.execute(delete(history).where(history.c.document.in_(ids)))
            connection.execute(delete(documents).where(documents.c.namespace == name))
            connection.execute(delete(synced).where(synced.c.namespace == name))
            connection.execute(update(epochs).where(epochs.c.namespace == name).values(drop_after=0.0))

        await self._database.write(work)

    async def start_building(self, epoch: Epoch, *, drop_after_s: float) -> None:
        """From now on writers write to `epoch` as well; another one that was being built is given up, and dropped once
        no writer can still be at it. Raises NotFound."""

        def work(connection: Connection) -> None:
            row = connection.execute(
                select(namespaces).where(namespaces.c.name == epoch.namespace, namespaces.c.uid == epoch.uid)
            ).first()
            _must(row is not None, epoch.namespace)
            assert row is not None
            if row.building:
                connection.execute(
                    _set_drop_after(replace(epoch, label=row.building), self._clock.now() + drop_after_s)
                )
            connection.execute(
                update(namespaces).where(namespaces.c.name == epoch.namespace).values(building=epoch.label)
            )
            connection.execute(_set_drop_after(epoch, None))

        await self._database.write(work)

    async def cut_over(self, epoch: Epoch, *, drop_after_s: float) -> None:
        """Make the building epoch the serving one; the old one is dropped once no query can still be reading it."""

        def work(connection: Connection) -> None:
            name, label = epoch.namespace, epoch.label
            row = connection.execute(select(namespaces).where(namespaces.c.name == name).with_for_update()).first()
            if row is None or row.building != label or row.uid != epoch.uid:
                raise Conflict(
                    f"Epoch {label} of namespace {name} is not being built any more.",
                    next_step="Somebody else re-indexed or deleted it; look with `ragline namespaces show`.",
                )
            connection.execute(
                update(namespaces)
                .where(namespaces.c.name == name)
                .values(epoch=label, building=None, visible=namespaces.c.visible + 1)
            )
            connection.execute(_set_drop_after(replace(epoch, label=row.epoch), self._clock.now() + drop_after_s))
            if row.settings.get("public"):
                purge(connection, self._clock.now(), row.uid, row.visible + 1, [WHOLE])

        await self._database.write(work)

    async def retired(self) -> list[tuple[Epoch, bool]]:
        """Epochs whose collections may be dropped now; True where their namespace is gone as well."""
        query = (
            select(epochs, namespaces.c.uid)
            .outerjoin(namespaces, (namespaces.c.name == epochs.c.namespace) & (namespaces.c.uid == epochs.c.uid))
            .where(epochs.c.drop_after <= self._clock.now())
            .set_label_style(LABEL_STYLE_TABLENAME_PLUS_COL)
        )
        rows = await self._database.read(lambda connection: connection.execute(query).mappings().all())
        return [(_epoch(dict(row)), row["namespaces_uid"] is None) for row in rows]

    async def forget_epoch(self, epoch: Epoch) -> None:
        await self._database.write(lambda connection: connection.execute(delete(epochs).where(*_is(epoch))).rowcount)

    async def _select(self, name: str | None) -> list[Namespace]:
        unsettled = (documents.c.namespace == namespaces.c.name) & (documents.c.settled < documents.c.revision)
        behind = select(func.min(documents.c.revision) - 1).where(unsettled).scalar_subquery()
        query = (
            select(namespaces, epochs, func.coalesce(behind, namespaces.c.sequence).label("settled"))
            .join(epochs, (epochs.c.namespace == namespaces.c.name) & (epochs.c.uid == namespaces.c.uid))
            .where((epochs.c.label == namespaces.c.epoch) | (epochs.c.label == namespaces.c.building))
            .order_by(namespaces.c.name)
            .set_label_style(LABEL_STYLE_TABLENAME_PLUS_COL)
        )
        if name is not None:
            query = query.where(namespaces.c.name == name)
        rows = await self._database.read(lambda connection: connection.execute(query).mappings().all())
        found: dict[str, dict[str, Mapping[str, Any]]] = {}
        for row in rows:
            found.setdefault(row["namespaces_name"], {})[row["epochs_label"]] = dict(row)
        return [_namespace(by_label) for by_label in found.values()]


def _namespace(by_label: Mapping[str, Mapping[str, Any]]) -> Namespace:
    row = next(iter(by_label.values()))
    serving, building = by_label[row["namespaces_epoch"]], by_label.get(row["namespaces_building"] or "")
    return Namespace(
        name=row["namespaces_name"],
        uid=row["namespaces_uid"],
        sequence=row["namespaces_sequence"],
        visible=row["namespaces_visible"],
        settings=settings_from(row["namespaces_settings"]),
        epoch=_epoch(serving),
        building=_epoch(building) if building else None,
        created_at=row["namespaces_created_at"],
        settled=row["settled"],
        foreign=bool(row["namespaces_foreign"]),
    )


def _epoch(row: Mapping[str, Any]) -> Epoch:
    return Epoch(
        namespace=row["epochs_namespace"],
        uid=row["epochs_uid"],
        label=row["epochs_label"],
        vectors=row["epochs_vectors"],
        keywords=row["epochs_keywords"],
        space=_space(row["epochs_space"]),
        fields={name: FieldType(kind) for name, kind in row["epochs_fields"].items()},
    )


def _space(stored: Mapping[str, Any]) -> Space:
    """The inverse of `asdict`; one that an older version wrote has no probe."""
    return Space(**{**stored, "probe": tuple(stored.get("probe", ()))})


def settings_from(stored: Mapping[str, Any]) -> NamespaceSettings:
    """The inverse of `asdict`; a setting that an older version did not know gets its default."""
    values = dict(stored)
    values["fields"] = {name: FieldType(kind) for name, kind in values.get("fields", {}).items()}
    values["fusion"] = Fusion(**values.get("fusion", {}))
    return NamespaceSettings(**values)


def _label(now: float, taken: set[str]) -> str:
    """Such as ``v20230601``; a second one of a day is ``v20230601-2``.

    Never one that has served: what caches hold under it would be reached again. The newest of a day is known for as long as it
    serves, so one more than that is new, also where the older ones are dropped and forgotten.
    """
    day = f"v{datetime.fromtimestamp(now, UTC):%Y%m%d}"
    numbers = [int(label[len(day) + 1 :] or 1) for label in taken if label == day or label.startswith(f"{day}-")]
    return f"{day}-{max(numbers) + 1}" if numbers else day


def _is(epoch: Epoch) -> tuple[ColumnElement[bool], ...]:
    return (epochs.c.namespace == epoch.namespace, epochs.c.uid == epoch.uid, epochs.c.label == epoch.label)


def _set_drop_after(epoch: Epoch, at: float | None) -> Update:
    return update(epochs).where(*_is(epoch)).values(drop_after=at)


def _must(found: bool | int, name: str) -> None:
    if not found:
        raise NotFound(f"Namespace {name!r} does not exist.", next_step="List the names with GET /v1/namespaces.")
