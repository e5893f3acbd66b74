"""What one document may cost, and which programs may help to read it. The pool sends it along with each document."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Tools:
    """Programs that formats call. `ocr` and `office`: whether to use Tesseract and LibreOffice where they are installed.

    Units: `timeout_s` for all that a document asks of them; `ocr_languages` as Tesseract takes them, such as "eng+deu".
    """

    ocr: bool = True
    ocr_languages: str = "eng"
    office: bool = True
    timeout_s: float = 600.0
    memory_bytes: int = 2 << 30


@dataclass(frozen=True, slots=True)
class Limits:
    """Units: `memory_bytes` is what the parse may add to its child's address space; text in characters, members in bytes.

    max_members, max_members_bytes: of what one container holds, together.   max_member_bytes: of one member.
    """

    memory_bytes: int = 1 << 30
    max_text_chars: int = 20_000_000
    max_members: int = 2_000
    max_members_bytes: int = 128 << 20
    max_member_bytes: int = 100 << 20
    tools: Tools = field(default_factory=Tools)
