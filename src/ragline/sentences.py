"""Where sentences end, in any script, by one pass of one expression.

Pure. Chunking packs whole sentences; the extractive generator answers with them. A rule, not a model: it must run over
gigabytes, and a wrong cut costs a little context, never a word.
"""

from __future__ import annotations

import re

_ABBREVIATION_LIST = (
    "mr mrs ms dr prof st sr jr hon rev gen col lt sgt capt cmdr adm maj gov sen rep pres ave blvd rd mt ft inc ltd co"
    " corp ed eds cit al cf vs viz approx ca dept"
    " tel ext jan feb apr jun jul aug sep sept oct nov dec i.e e.g a.m p.m u.s u.k"
    " ph.d b.a m.a z.b d.h u.a bzw usw ggf evtl inkl hr fr bd hrsg sog vgl mme mlle av env ej sra srta dña"
    " prof.ª dott sig см тыс млн млрд т.е"
)
_ABBREVIATIONS = frozenset(_ABBREVIATION_LIST.split())
"""Words after which a full stop ends nothing, lower case, without the stop."""

_CLOSE = r"""["'”’»)\]}」』】）〉》]*+"""
_END = re.compile(
    rf"""
      [.!?…‽]++ {_CLOSE}                # Latin, Greek, Cyrillic, Hebrew …: only before white space, see below
    | [。！？｡．]+ {_CLOSE}              # Chinese and Japanese: no space follows
    | [؟۔।॥။፧።᙮᠃᠉] {_CLOSE}            # Arabic, Urdu, Indic, Burmese, Ethiopic, …
    | \n (?= [^\S\n]* \n)              # an empty line
    | \n (?= [^\S\n]* (?: [-*•‣▪◦–—] | \(?\d{{1,3}}[.)] ) [^\S\n])   # the next item of a list
    """,
    re.VERBOSE,
)
_NUMBERED_LIST = "no nos nr p pp vol vols fig figs eq eqs sec ch chap art abs nº núm pág рис табл стр гл"
_NUMBERED = frozenset(_NUMBERED_LIST.split())
"""Words after which a full stop ends nothing when a digit follows."""

_INITIALS = re.compile(r"[^\W\d_](?:\.[^\W\d_])*")
_WORD_BEFORE = re.compile(r"[^\s(\[\"'“‘«]{1,24}\Z")
_LOOK_BACK = 25


def sentences(text: str) -> list[tuple[int, int]]:
    """The spans of the sentences of `text`, in order, without white space around them.

    Shapes:  every character that is not white space lies in exactly one span; none for blank text.
    Cost:    linear in the text, for any text.
    """
    spans: list[tuple[int, int]] = []
    start = 0
    for found in _END.finditer(text):
        end = found.end()
        if found[0][0] in ".!?…" and not _ends_sentence(text, start, found):
            continue
        _add(spans, text, start, end)
        start = end
    _add(spans, text, start, len(text))
    return spans


def _add(spans: list[tuple[int, int]], text: str, start: int, end: int) -> None:
    piece = text[start:end]
    stripped = piece.lstrip()
    if stripped:
        start = end - len(stripped)
        spans.append((start, start + len(stripped.rstrip())))


def _ends_sentence(text: str, start: int, found: re.Match[str]) -> bool:
    """Whether this mark ends a sentence: not inside a word, before a lower-case one, after an abbreviation or initial.

    White space is looked for here, not in the expression, where a run of a million dots would cost its square.
    """
    if found.end() < len(text) and not text[found.end()].isspace():
        return False
    following = _next_letter(text, found.end()) or " "
    if following.islower():
        return False
    if found[0][0] != "." or found[0].startswith(".."):
        return True
    before = _WORD_BEFORE.search(text[max(start, found.start() - _LOOK_BACK) : found.start()])
    if before is None:
        return True
    word = before[0].lower()
    if word in _ABBREVIATIONS or (word in _NUMBERED and following.isdigit()):
        return False
    if _INITIALS.fullmatch(before[0]) or following in "§&%":
        return False  # J. Smith, U.S.C.
    return not (word.isdigit() and len(word) <= 3 and not text[start : found.start()].strip(word).strip())


def _next_letter(text: str, at: int) -> str:
    """The first character after the white space at `at`, past an opening quote or bracket; "" when none is near."""
    for character in text[at : at + 40]:
        if not character.isspace() and character not in "\"'“‘«([{¿¡":
            return character
    return ""
