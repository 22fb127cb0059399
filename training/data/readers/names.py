"""What an annotation is called: its texts and its category's name, and which of them mean the same.

Texts under keys that are not read are named in a note, since the category's name stands in for them.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from training.data.readers.records import Record

TEXT_KEYS = ("text", "caption")
# Where others keep what is said of an object or an image.
# fmt: off
_OTHER_KEYS = frozenset(
    {
        "answer", "captions", "comment", "desc", "description", "descriptions", "expression", "expressions",
        "instruction", "instructions", "natural_language", "note", "phrase", "phrases", "prompt", "prompts",
        "query", "question", "questions", "raw", "ref_exp", "refer_exp", "referring", "referring_expression",
        "referring_expressions", "refexp", "sent", "sentence", "sentences", "texts", "title",
    }
)
# Of COCO's format and of exporters', and none says what an object is called.
_NO_TEXT = frozenset(
    {
        "area", "bbox", "bbox_mode", "category", "category_id", "category_name", "color", "colour", "created",
        "created_at", "creator", "date", "date_captured", "events", "file", "file_name", "id", "ignore",
        "image", "image_id", "isbbox", "iscrowd", "keypoints", "label", "license", "metadata", "num_keypoints",
        "path", "score", "segmentation", "supercategory", "tags", "track_id", "updated_at", "user",
    }
)
# fmt: on
_FOREIGN = re.compile(r"[^\x00-\x7f]{2,}")
_END = " .,;:!?…。，；：！？、"


# Words of scripts that put no space between them have about two signs each.
_SIGNS = re.compile(r"[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
_JOINT = re.compile(r"_+|(?<=\w)[-\u2010\u2011]+(?=\w)")
# How scripts write a text that is missing: pandas, Python, JavaScript, spreadsheets.
NO_TEXT = frozenset({"<na>", "n/a", "nan", "none", "null", "undefined"})
MISSING_AS_TEXT = "a text is none, nan, null or but signs, as scripts write a missing one, and is not read"
# Names of what is no object.
# fmt: off
NO_OBJECT = NO_TEXT | frozenset(
    {
        "background", "bg", "ignore", "ignored", "ignore region", "dontcare", "dont care", "don't care", "void",
        "unlabeled", "unlabelled", "not labeled", "not labelled",
    }
)
# fmt: on


@lru_cache(65536)
def clean_name(text: str) -> str:
    """Equal for names that mean the same: without case, doubled white space, underscores and hyphens between words, and
    what is put at a sentence's end."""
    plain = unicodedata.normalize("NFC", text).casefold()
    folded = " ".join(_JOINT.sub(" ", plain).split()) or plain.strip()
    return folded.rstrip(_END) or folded


def mentions(text: str, name: str) -> bool:
    """Whether a text holds all words of a name, in the singular or plural."""
    said, asked = clean_name(text), clean_name(name)
    return asked in said or {*map(_singular, asked.split())} <= {*map(_singular, re.findall(r"[\w']+", said))}


def _singular(word: str) -> str:
    return re.sub(r"(?<=[sxz])es$|(?<=[cs]h)es$|(?<=[^s])s$", "", word) if len(word) > 3 else word


def said_of(record: Record) -> Iterator[str]:
    """All texts that an annotation or an image's record holds, also those that are not read as instructions."""
    inner = record.get("attributes")
    for key in {*(k for k in TEXT_KEYS if k in record), *unread_texts(record)}:
        if key in record:
            yield from _strings(record[key])
        elif isinstance(inner, dict):
            yield from _strings(inner.get(key.removeprefix("attributes.")))


def _strings(value: Any, depth: int = 3) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif depth and isinstance(value, (list, tuple, dict)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner, depth - 1)


def category_text(category: Record) -> str:
    """A category's name as one would say it: LVIS writes `bat_(animal)`."""
    return str(category["name"]).replace("_", " ").strip()


def texts_of(annotation: Record) -> tuple[str, ...]:
    """The texts of an annotation: `text`, else `caption`; a string, or a list of which all mean the same."""
    if "text" not in annotation and "caption" not in annotation:  # as most are
        return ()
    for key in TEXT_KEYS:
        if (given := annotation.get(key)) and (found := said_in(given)):
            return found
    return ()


def said_in(given: Any) -> tuple[str, ...]:
    """The texts in a string or a list of such, each once, without those that only stand for a missing one."""
    return tuple(dict.fromkeys(text for text in _given(given) if not is_missing(text)))


def has_missing(annotation: Record) -> bool:
    """Whether one of its texts only stands for a missing one."""
    if "text" not in annotation and "caption" not in annotation:  # as most are
        return False
    return any(is_missing(text) for key in TEXT_KEYS for text in _given(annotation.get(key)))


def _given(value: Any) -> Iterator[str]:
    for text in value if isinstance(value, (list, tuple)) else (value,):
        if isinstance(text, (int, float)) and not isinstance(text, bool):
            text = str(text)  # "7" may be a name
        if isinstance(text, str) and text.strip():
            yield text.strip()


def is_missing(text: str) -> bool:
    """Whether a text says that there is none, or holds nothing but signs."""
    return clean_name(text) in NO_TEXT or (text.isascii() and not any(map(str.isalnum, text)))


def decoded_wrongly(text: str) -> str:
    """A part of a text that was decoded wrongly before it came into its file (`cafÃ©` for `café`), or "".

    Such a part is UTF-8 once more as Windows-1252 has it; of one sign alone only where no language writes it.
    """
    if text.isascii():
        return ""
    if "\ufffd" in text:
        return "\ufffd"
    for run in _FOREIGN.findall(text):
        try:
            meant = b"".join(map(_byte, run)).decode("utf-8")
        except UnicodeError:
            continue
        if len(meant) > 1 or run[0] in "ÂÃÄÅâ":
            return str(run)
    return ""


def check_text(text: str) -> str:
    """The text. Raises ValueError where it was decoded wrongly."""
    if part := decoded_wrongly(text):
        raise ValueError(f"its text {text[:80]!r} was decoded wrongly before it was written ({part[:20]!r})")
    return text


def _byte(sign: str) -> bytes:
    try:
        return sign.encode("cp1252")
    except UnicodeEncodeError:
        return sign.encode("latin-1")  # of the five bytes that Windows-1252 has no sign for


def spelling(names: Sequence[str]) -> str:
    """One of several spellings of a name, whatever their order: the most frequent, the shortest, in small letters."""
    if names.count(names[0]) == len(names):
        return names[0]
    counts = Counter(names)
    return min(counts, key=lambda name: (-counts[name], len(name), name.swapcase()))


def unread_texts(annotation: Record) -> Iterator[str]:
    """Keys of an annotation without a text of its own that seem to hold one."""
    for key, value in annotation.items():
        if key in _NO_TEXT or not value or isinstance(value, (int, float)):
            continue
        if key == "attributes" and isinstance(value, dict):
            inner = ((f"attributes.{k}", k, v) for k, v in value.items())
            yield from (name for name, k, v in inner if _says(k, v) or (k in TEXT_KEYS and _words(v, 1)))
        elif not all(map(is_missing, _strings(value))) if key in TEXT_KEYS else _says(key, value):
            yield key


def image_texts(image: Record) -> Iterator[str]:
    """Keys of an image's record that hold a text on the image."""
    for key, value in image.items():
        if (key in TEXT_KEYS or key in _OTHER_KEYS) and _words(value, 1):
            yield key


def _says(key: Any, value: Any) -> bool:
    return _words(value, 1 if str(key).lower() in _OTHER_KEYS else 2)


def _words(value: Any, least: int, depth: int = 3) -> bool:
    """Whether somewhere in a value there is a text of so many words."""
    if isinstance(value, str):
        if len(value) >= 100_000:
            return False
        words = (max(1, -(-len(_SIGNS.findall(word)) // 2)) for word in value.split() if any(map(str.isalpha, word)))
        return sum(words) >= least
    if depth and isinstance(value, (list, tuple)):
        return any(_words(v, least, depth - 1) for v in value[:8])
    return (
        bool(depth) and isinstance(value, dict) and any(_words(v, least, depth - 1) for v in list(value.values())[:8])
    )


def notes_on_texts(annotations: Iterable[Record], images: Iterable[Record]) -> list[str]:
    """Sentences on the keys that hold texts and are not read, with their counts."""
    held = Counter[str]()
    instructions: dict[str, set[Any]] = {}
    for annotation in annotations:
        if annotation.keys() <= _PLAIN or texts_of(annotation):
            continue
        for key in set(unread_texts(annotation)):
            held[key] += 1
            where = (annotation.get("image_id"), annotation.get("category_id"))
            instructions.setdefault(key, set()).add(where)
    found = []
    for key, count in held.most_common(8):
        rows = len(instructions[key])
        found.append(
            f'"{key[:60]}" is not read: {count} annotations hold words there and take their category\'s name instead, '
            f'in {rows} rows; an instruction is read from "text" or "caption"'
        )
    spoken = Counter(key for image in images if not image.keys() <= _PLAIN_IMAGE for key in image_texts(image))
    for key, count in spoken.most_common(4):
        found.append(f'"{key}" of {count} images is not read: it says nothing of a single object')
    return found


_PLAIN = frozenset(("area", "bbox", "category_id", "id", "image_id", "iscrowd", "segmentation"))
_PLAIN_IMAGE = frozenset(("coco_url", "date_captured", "file_name", "flickr_url", "height", "id", "license", "width"))
