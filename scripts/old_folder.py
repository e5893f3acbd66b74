"""Make the small data folder that the upgrade test opens with every later version: `python scripts/old_folder.py NAME`.

Run it with the version whose folder is to be kept, before a change of what lies on disk; the archive is committed, and
never made again. `PYTHONPATH` picks the version.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ARCHIVES = Path(__file__).resolve().parent.parent / "tests" / "folders"

DOCUMENTS = {
    "vault.md": "# The vault\n\nThe vault opens at dawn, and only with two keys.\n\n## Keys\n\nOne key is brass, one is iron.\n",
    "tides.txt": "High water at the old pier is at noon; low water comes six hours later.\n",
    "stars.csv": "star,constellation\nVega,Lyra\nAltair,Aquila\nDeneb,Cygnus\n",
    "empty.md": "",
}
"""Written for this; one of them fails, and must still say why."""

RUN = "from ragline.cli.main import run; run()"


def make(name: str) -> Path:
    """The archive ``tests/folders/NAME.tar.xz`` with a namespace of filters and groups beside the default one."""
    archive = ARCHIVES / f"{name}.tar.xz"
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for uri, text in DOCUMENTS.items():
            (root / "documents").mkdir(exist_ok=True)
            (root / "documents" / uri).write_text(text)
        data = str(root / "data")

        def ragline(*arguments: str) -> None:
            done = subprocess.run([sys.executable, "-c", RUN, *arguments, "--data-dir", data], cwd=root)
            if done.returncode not in (0, 1):  # 1: a document has failed, as one of them must
                raise SystemExit(done.returncode)

        ragline("ingest", "documents")
        ragline("namespaces", "create", "papers", "--field", "year=integer", "--fusion", "convex")
        ragline("ingest", "documents/tides.txt", "-n", "papers", "--metadata", '{"year": 1899}', "--group", "staff")
        ragline("keys", "create", "reader", "--role", "read", "--group", "staff")
        ARCHIVES.mkdir(exist_ok=True)
        with tarfile.open(archive, "w:xz") as tar:
            for path in sorted(Path(data).rglob("*")):
                if path.name not in ("lock", "holder.json"):
                    tar.add(path, path.relative_to(data).as_posix(), recursive=False, filter=_nobodys)
    return archive


def _nobodys(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


if __name__ == "__main__":
    print(make(sys.argv[1]))
