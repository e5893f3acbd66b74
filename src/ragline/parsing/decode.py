"""Bytes to characters, whatever the encoding; never fatal.

Order: byte order mark, UTF-8 (a few broken bytes are replaced), UTF-16/32 without a mark (by where the zeros stand),
ISO-2022 (by its escapes), what the document declares, statistics (charset-normalizer), cp1252.
"""

from __future__ import annotations

import codecs
import re

SAMPLE_BYTES = 64 << 10
"""What the statistics look at. More does not change the answer and costs linearly."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_ESCAPES = ((b"\x1b$)C", "iso2022_kr"), (b"\x1b$B", "iso2022_jp"), (b"\x1b$@", "iso2022_jp"), (b"~{", "hz"))
_DECLARED = re.compile(rb"""(?:charset|encoding)\s*=\s*["']?\s*([A-Za-z0-9_.:-]+)""", re.IGNORECASE)


def decode(data: bytes, *, declared: str | None = None) -> str:
    """The text of `data`. `declared` is a codec's name that the document gives, believed after UTF-8 has failed."""
    for mark, codec in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(codec, "replace")
    wide = wide_codec(data)
    if wide is not None:
        return data.decode(wide, "replace")
    for escape, codec in _ESCAPES:
        if escape in data[:SAMPLE_BYTES]:
            try:
                return data.decode(codec)
            except UnicodeDecodeError:
                continue
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    return _not_utf8(data, declared)


def _not_utf8(data: bytes, declared: str | None) -> str:
    if declared is not None:
        try:
            return data.decode(codecs.lookup(declared).name)
        except (LookupError, UnicodeDecodeError, ValueError):
            pass
    if _mostly_utf8(data):
        return data.decode("utf-8", "replace")
    codec = _guess(data)
    # Statistics saw a sample: the rest may still hold bytes that the codec does not know.
    return data.decode(codec, "replace")


def declared_charset(data: bytes) -> str | None:
    """The codec that HTML or XML names in its first 2 KiB, or None."""
    found = _DECLARED.search(data[:2048])
    name = found[1].decode("ascii") if found else None
    return None if name is None or name.lower().startswith(("utf-16", "utf-32", "unicode")) else name


def wide_codec(data: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark: the codec whose high bytes stand where they should, or None."""
    sample = data[: SAMPLE_BYTES // 4 * 4]
    sample = sample[: len(sample) // 4 * 4]
    if len(sample) < 4:
        return None
    if b"\0" not in sample:
        return None
    quarter = len(sample) // 4
    zeros = [sample[i::4].count(0) for i in range(4)]
    if zeros[2] > 0.95 * quarter and zeros[3] > 0.95 * quarter and zeros[0] < 0.1 * quarter:
        return "utf-32-le"
    if zeros[0] > 0.95 * quarter and zeros[1] > 0.8 * quarter and zeros[3] < 0.1 * quarter:
        return "utf-32-be"
    if _below_space(sample) < 0.35 * len(sample) and _is_utf8(sample):
        return None  # plain text with stray zeros: of UTF-16 that happens to be UTF-8, every other byte is below space
    for codec, low, high in (("utf-16-le", sample[::2], sample[1::2]), ("utf-16-be", sample[1::2], sample[::2])):
        # The high bytes of all but CJK are below 0x20, which no other text has; of CJK they are zero now and then.
        rare = low.count(0) < 0.02 * len(low) and _below_space(low) < 0.1 * len(low)
        often = _below_space(high) > 0.5 * len(high) or high.count(0) > 0.05 * len(high)
        if rare and often and _reads_as_text(sample, codec):
            return codec
    return None


def _below_space(raw: bytes) -> int:
    return len(raw) - len(raw.translate(None, bytes(c for c in range(32) if c not in b"\t\n\r")))


def _is_utf8(sample: bytes) -> bool:
    try:
        sample[:-4].decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start >= len(sample) - 8
    return True


def _reads_as_text(sample: bytes, codec: str) -> bool:
    try:
        text = sample.decode(codec)
    except UnicodeDecodeError as error:
        if error.end < len(sample):
            return False
        text = sample[: error.start].decode(codec)
    odd = sum(1 for c in text[:2000] if not c.isprintable() and not c.isspace())
    return odd <= 0.02 * min(len(text), 2000)


def _mostly_utf8(data: bytes) -> bool:
    """Whether broken bytes are rare beside whole UTF-8 sequences: a damaged UTF-8 text, not another encoding."""
    text = data[:SAMPLE_BYTES].decode("utf-8", "replace")
    broken = text.count("�")
    whole = sum(1 for c in text if c > "\x7f") - broken
    # Without any whole sequence only a lone broken byte in much ASCII is "damage"; é in cp1252 comes more than once.
    return whole > 2 * broken


def _guess(data: bytes) -> str:
    import charset_normalizer

    sample = data[:SAMPLE_BYTES]
    if len(data) > SAMPLE_BYTES:
        sample = sample[: sample.rfind(b"\n") + 1] or sample
    matches = charset_normalizer.from_bytes(sample)
    best = matches.best()
    if best is None:
        return "cp1252"
    for rival in matches:
        as_likely = rival.chaos <= best.chaos and rival.coherence >= best.coherence
        if as_likely and "cp1252" in rival.could_be_from_charset and not _hungarian(sample):
            return "cp1252"  # by far the more common one; statistics put the alphabetically first on top
    return best.encoding


def _hungarian(sample: bytes) -> bool:
    """ő and ű are õ and û in cp1252, a tie that no statistics break; but Hungarian has few other accents."""
    letters = {c for c in sample.decode("cp1250", "ignore").lower() if c > "\x7f" and c.isalpha()}
    return bool(letters & set("őű")) and letters <= set("áéíóöőúüű")
