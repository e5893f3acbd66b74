"""Text in any script to text that a tokenizer splitting at spaces and punctuation cuts into words.

For engines without an analyser of their own for every script. Pure; applied to what is indexed and to what is asked,
so both fold alike. Latin accents and case are left to the engine.

Measured on XQuAD, nDCG@10, 240 paragraphs each, without → with: Chinese .114 → .965, Arabic .886 → .889.
"""

from __future__ import annotations

import re
import unicodedata

_UNSPACED = re.compile(
    "["
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17ff"  # Myanmar, Khmer
    "\u3005-\u3007\u3040-\u30ff"  # Japanese kana
    "\u2e80-\u2fdf\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\uac00-\ud7af"  # Hangul: spaced, but with its particles attached
    "]+"
)
_MARKS_AND_SIGNS = re.compile(r"[^\x00-\x7F\w]")
_ARABIC = str.maketrans({"أ": "ا", "إ": "ا", "آ": "ا", "ٱ": "ا", "ى": "ي", "ة": "ه", "ـ": None})
"""Letters that writers use for each other, and the stretching line: as Lucene's ArabicNormalizer."""


def fold(text: str) -> str:
    """Fold compatibility forms, drop marks, and write scripts without spaces as their characters and pairs of them.

    Pairs stand for words that nobody has marked; the single characters make a query of one character an answerable one.
    A half of a surrogate pair becomes ``?``. ASCII comes back as it is.
    """
    if text.isascii():
        return text
    text = unicodedata.normalize("NFKC", text.encode("utf-8", "replace").decode())
    text = _MARKS_AND_SIGNS.sub(lambda found: "" if unicodedata.combining(found[0]) else found[0], text)
    return _UNSPACED.sub(_grams, text.translate(_ARABIC))


def _grams(found: re.Match[str]) -> str:
    run = found[0]
    pairs = (run[at : at + 2] for at in range(len(run) - 1))
    return f" {' '.join((*run, *pairs))} "
