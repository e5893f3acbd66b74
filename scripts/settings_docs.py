"""Write docs/settings.md from settings.py: `python scripts/settings_docs.py`. A test fails while the page is stale."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ragline.settings import Settings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"

HEAD = """\
# Settings

<!-- Made by scripts/settings_docs.py from src/ragline/settings.py. Do not edit. -->

A setting is read, in this order, from the command line, from its `RAGLINE_*` variable, and from a TOML file
(`--config`, else `RAGLINE_CONFIG`, else `ragline.toml` in the folder the command runs in). What nobody says has the
default below. A wrong value stops the start with the setting's name and the fix. Sizes are in bytes; a unit ends each
other name.

```toml
# ragline.toml
data_dir = "/var/lib/ragline"

[http]
port = 8080

[[generators]]
url = "http://127.0.0.1:8000/v1"
model = "my-model"
```

The same by the environment: `RAGLINE_DATA_DIR=/var/lib/ragline`, `RAGLINE_HTTP__PORT=8080` (two underscores between
levels), `RAGLINE_GENERATORS='[{"url": "http://127.0.0.1:8000/v1", "model": "my-model"}]'`.
"""


def page() -> str:
    sections = dict(_sections())
    top = {name: field for name, field in Settings.model_fields.items() if name not in sections}
    parts = [HEAD, "## General\n", _table(top, variable="RAGLINE_")]
    for name, (model, many) in sections.items():
        title = f"[[{name}]]" if many else f"[{name}]"
        variable = "" if many else f"RAGLINE_{name.upper()}__"
        parts += [f"## `{title}`\n", f"{' '.join((model.__doc__ or '').split())}\n"]
        parts.append(_table(model.model_fields, variable=variable))
    return "\n".join(parts)


def _sections() -> Iterator[tuple[str, tuple[type[BaseModel], bool]]]:
    """Name of each section → (its model, whether it is a list of them)."""
    for name, field in Settings.model_fields.items():
        kinds = [field.annotation, *get_args(field.annotation)]
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield name, (kind, kind is not field.annotation)
                break


def _table(fields: dict[str, FieldInfo], *, variable: str) -> str:
    rows = ["| setting | default | what it says |", "|---|---|---|"]
    if variable:
        rows = ["| setting | variable | default | what it says |", "|---|---|---|---|"]
    for name, field in fields.items():
        cells = [f"`{name}`", *([f"`{variable}{name.upper()}`"] if variable else []), _default(field.default)]
        rows.append("| " + " | ".join([*cells, (field.description or "").replace("|", "\\|")]) + " |")
    return "\n".join(rows) + "\n"


def _default(value: Any) -> str:
    match value:
        case None | "" | ():
            return "—"
        case bool():
            return f"`{str(value).lower()}`"
        case int() if value >= 1 << 16 and value % (1 << 10) == 0:
            power = 20 if value % (1 << 20) == 0 else 10
            return f"`{value}` ({value >> power} {'MiB' if power == 20 else 'KiB'})"
        case SecretStr():
            return "(secret)"
    if value is PydanticUndefined:
        return "required"
    return f"`{value}`"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
