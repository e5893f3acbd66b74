"""Jars of servers for the tests: Maven brings them once into the user's cache."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
from pathlib import Path

from tests.engines.server import missing


def jars(name: str, version: str, pom: str, *, oldest_java: int) -> Path:
    """The folder of what `pom` depends on: from the cache, else by Maven."""
    if java() < oldest_java:
        missing(f"Java {oldest_java} or newer, for {name}", "apt-get install default-jre-headless")
    folder = cache() / f"{name.lower()}-{version}"
    if folder.exists():
        return folder
    half = folder.with_name(f"{folder.name}-{secrets.token_hex(4)}")
    half.mkdir(parents=True)
    bring(f"{name} {version}", pom, half, into=half)
    try:
        half.rename(folder)
    except OSError:  # another session was quicker
        shutil.rmtree(half)
    return folder


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ragline-tests"


def bring(what: str, pom: str, half: Path, *, into: Path) -> None:
    """What `pom` depends on, into a folder inside `half`, which goes when Maven cannot bring it."""
    (half / "pom.xml").write_text(pom)
    copy = ["mvn", "-q", "-B", "-f", str(half / "pom.xml"), "dependency:copy-dependencies", "-DincludeScope=runtime"]
    if not shutil.which("mvn"):
        shutil.rmtree(half)
        missing(f"{what} and Maven, which would bring it", "apt-get install maven")
    done = subprocess.run([*copy, f"-DoutputDirectory={into}"], capture_output=True, text=True)
    if done.returncode:
        shutil.rmtree(half)
        missing(f"{what} ({done.stdout[-500:]})", f"mvn must reach a repository: {' '.join(copy)}")


def java() -> int:
    """Its major version; 0: there is none."""
    if not shutil.which("java"):
        return 0
    said = subprocess.run(["java", "-version"], capture_output=True, text=True).stderr
    found = re.search(r'version "(\d+)', said)
    return int(found.group(1)) if found else 0
