"""Tokens of a model that runs elsewhere: by its tokenizer, where one is named, else by an approximation.

The chunker and the packing of prompts ask for them; `openai` cuts over-long texts by them. Synchronous, CPU only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ragline.embedders.model_files import damaged, locate
from ragline.surrogates import encodable

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
APPROXIMATE = re.compile(rf"[A-Za-z]{{1,6}}|\d{{1,2}}|[{_CJK}]|[^\W\d_]{{1,3}}|[^\w\s]|_")
"""Six ASCII letters, three others, two digits, one sign or CJK character a token. Of English text, tables and code that is
0.98 to 1.16 times the tokens of BERT's WordPiece (docs/adr/0014); of other languages it may be half of them."""


def approximate_spans(text: str) -> Sequence[tuple[int, int]]:
    return [found.span() for found in APPROXIMATE.finditer(text)]


class NamedTokenizer:
    """The model's own, from a `tokenizer.json`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer

    @classmethod
    def load(cls, source: str) -> NamedTokenizer:
        """`source`: a tokenizer.json, or what `model_files.locate` takes. Blocking. Raises MissingDependency."""
        from tokenizers import Tokenizer

        path = Path(source).expanduser()
        if not path.is_file():
            path = locate(source, setting="embedder.tokenizer") / "tokenizer.json"
        try:
            return cls(Tokenizer.from_file(str(path)))
        except Exception as error:  # the library raises nothing narrower
            raise damaged(path, error) from error

    def spans(self, text: str) -> Sequence[tuple[int, int]]:
        """White space, which some models' tokens begin with or are, is not part of a span."""
        (encoding,) = self._tokenizer.encode_batch([encodable(text)], add_special_tokens=False)
        bare = ((start + len(text[start:end]) - len(text[start:end].lstrip()), end) for start, end in encoding.offsets)
        return [(start, start + len(text[start:end].rstrip())) for start, end in bare if start < end]
