"""The tables. Times are seconds since 1970; JSON columns hold what no query filters on."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    column,
    or_,
)

metadata = MetaData()

namespaces = Table(
    "namespaces",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("uid", String(16), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("visible", BigInteger, nullable=False),
    Column("settings", JSON, nullable=False),
    Column("epoch", String(32), nullable=False),
    Column("building", String(32)),
    Column("foreign", Integer, nullable=False, server_default="0"),
    Column("created_at", Float, nullable=False),
)

epochs = Table(
    "epochs",
    metadata,
    Column("namespace", String(63), primary_key=True),
    Column("uid", String(16), primary_key=True),
    Column("label", String(32), primary_key=True),
    Column("vectors", String(255), nullable=False),
    Column("keywords", String(255), nullable=False),
    Column("space", JSON, nullable=False),
    Column("fields", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("drop_after", Float),
)

documents = Table(
    "documents",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("namespace", String(63), nullable=False),
    Column("uri", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("given_title", Text),
    Column("media_type", Text),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("content", BigInteger, nullable=False),
    Column("live", BigInteger),
    Column("settled", BigInteger, nullable=False),
    Column("blob", String(64)),
    Column("live_blob", String(64)),
    Column("garbage", JSON, nullable=False),
    Column("sweep", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text),
    Column("attempt", Integer, nullable=False),
    Column("lease_until", Float, nullable=False),
    Column("late_until", Float, nullable=False, server_default="0"),
    Column("groups", JSON, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("chunks", Integer),
    Column("language", String(8)),
    Column("received_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("verified_at", Float, nullable=False),
    Column("parent", String(32)),
    Column("root", String(32)),
    Column("depth", Integer, nullable=False, server_default="0"),
    Column("members", Integer, nullable=False, server_default="0"),
    Column("dropped_from", String(64)),
    UniqueConstraint("namespace", "uri", name="uq_documents_uri"),
)

DUE = or_(column("settled") < column("revision"), column("sweep") == 1)
"""Work is due on exactly these rows; the partial index below holds nothing else."""

Index("ix_documents_due", documents.c.lease_until, documents.c.revision, sqlite_where=DUE, postgresql_where=DUE)
Index(
    "ix_documents_unsettled",
    documents.c.namespace,
    documents.c.revision,
    sqlite_where=column("settled") < column("revision"),
    postgresql_where=column("settled") < column("revision"),
)
IS_MEMBER = column("root").is_not(None)
Index("ix_documents_root", documents.c.root, sqlite_where=IS_MEMBER, postgresql_where=IS_MEMBER)
Index("ix_documents_parent", documents.c.parent, sqlite_where=IS_MEMBER, postgresql_where=IS_MEMBER)
Index("ix_documents_listing", documents.c.namespace, documents.c.id)

history = Table(
    "history",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("document", String(32), nullable=False),
    Column("at", Float, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("event", String(32), nullable=False),
    Column("detail", Text, nullable=False),
    Column("took_s", Float),
    Index("ix_history_document", "document", "id"),
)

synced = Table(
    "synced",
    metadata,
    Column("document", String(32), primary_key=True),
    Column("namespace", String(63), nullable=False),
    Column("source", Text, nullable=False),
    Column("version", Text, nullable=False),
    Index("ix_synced_source", "namespace", "source", "document"),
)

edge_purges = Table(
    "edge_purges",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("namespace", String(16), nullable=False),
    Column("document", String(32), nullable=False),
    Column("visible", BigInteger, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("due_at", Float, nullable=False),
    Column("passes", Integer, nullable=False, server_default="0"),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Index("ix_edge_purges_due", "due_at", "id"),
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("hash", String(64), nullable=False),
    Column("retiring_hash", String(64)),
    Column("retiring_until", Float),
    Column("principal", Text, nullable=False),
    Column("role", String(8), nullable=False),
    Column("namespaces", JSON),
    Column("groups", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("revoked_at", Float),
)
