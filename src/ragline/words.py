"""What a sentence is about, as words that can be compared: cheap, without a model.

Pure. The extractive generator ranks sentences by them, and `citations.holds` checks an answer against its passages.
English endings and stop words; text in other scripts is compared word by word (Chinese and Japanese by character pair).
"""

from __future__ import annotations

import re

STOP_WORDS = frozenset(
    "a about above after again all also am an and any are as at be because been before being below between both but by"
    " can could did do does doing down during each few for from further had has have having he her here hers him his"
    " how i if in into is it its itself just may me might more most must my no nor not of off on once only or other our"
    " out over own please same shall she should so some such tell than that the their them then there these they this"
    " those through to too under until up upon us very was we were what when where whether which while who whom whose"
    " why will with would you your s t d ll re ve m don doesn didn isn aren wasn weren".split()
)

_WORD = re.compile(r"[^\W_]+(?:[.,'’][^\W_]+)*")
_NUMBER = re.compile(r"\d[\d.,]*")
_WIDE = re.compile("[぀-ヿ㐀-䶿一-鿿]")
_SMALL_NUMBERS = {
    word: str(value)
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
        " eighteen nineteen twenty".split()
    )
}
_ENDINGS = ("ations", "ation", "ments", "ment", "ingly", "edly", "ions", "ings", "ers", "ies", "ied", "ion", "ing")
_SHORT_ENDINGS = ("ed", "es", "ly", "er", "or", "al", "s", "e", "y")
_STEM = 4
"""Letters that an ending must leave: fewer, and `rate` meets `ration`."""


def stem(word: str) -> str:
    """`word`, lower case, without its ending, so that `elected`, `election` and `elects` are one.

    Cruder than Porter's and wrong more often, in both directions; it costs two string tests a word.
    """
    for endings in (_ENDINGS, _SHORT_ENDINGS):
        for ending in endings:
            if word.endswith(ending) and len(word) - len(ending) >= _STEM:
                word = word.removesuffix(ending)
                break
    return word


def content_words(text: str) -> list[str]:
    """The stems of the words of `text` that carry meaning, in order, repeats kept; numbers as `number` writes them."""
    found: list[str] = []
    for match in _WORD.finditer(text):
        word = match[0].lower().replace("’", "'").removesuffix("'s")
        if word in STOP_WORDS:
            continue
        if word[0].isdigit():
            found.append(number(word))
        elif _WIDE.match(word):
            found.extend(word[i : i + 2] for i in range(max(1, len(word) - 1)))
        else:
            found.extend(stem(part) for part in re.split(r"[.,']", word) if part and part not in STOP_WORDS)
    return found


def number(word: str) -> str:
    """One way of writing a number: ``1,000`` → ``1000``, ``14th`` → ``14``, ``2.50`` → ``2.5``, ``seven`` → ``7``."""
    word = _SMALL_NUMBERS.get(word, word)
    digits = re.sub(r"(?<=\d)(st|nd|rd|th|s)$", "", word.rstrip(".,"))
    digits = re.sub(r",(?=\d{3}(?:\D|$))", "", digits)
    return digits.rstrip("0").rstrip(".") if re.fullmatch(r"\d+\.\d+", digits) else digits


def numbers(text: str) -> set[str]:
    """The numbers written in digits in `text`, as `number` writes them."""
    return {number(match[0]) for match in _NUMBER.finditer(text)}


def spelled_numbers(text: str) -> set[str]:
    """The small numbers written as words in `text`, as digits: what a paraphrase may have turned into figures."""
    return {_SMALL_NUMBERS[word] for word in re.findall(r"[a-z]+", text.lower()) if word in _SMALL_NUMBERS}


def names(text: str) -> set[str]:
    """The stems of capitalised words and acronyms in `text` that do not begin it: mostly names.

    Nothing in a text without lower-case letters, and nothing in a script without capitals.
    """
    if text.upper() == text:
        return set()
    found: set[str] = set()
    for match in _WORD.finditer(text):
        word = match[0].replace("’", "'").removesuffix("'s")
        begins = not text[: match.start()].strip(" \t\"'“‘(*_-")
        capital = word[0].isupper() and (not begins or sum(map(str.isupper, word)) > 1)
        if capital and word.lower() not in STOP_WORDS:
            found.update(stem(part) for part in re.split(r"[.,']", word.lower()) if len(part) > 1)
    return found
