"""Whether the words of a file are English once they are read as Windows-1252, as some of ReasonSeg's files are.

Words of another code page come out as other letters without an error: `кружка` of Windows-1251 is `êðóæêà`. So only
what English text holds is believed: typographic signs in a word or beside one, accented letters that are the same in
its neighbours' code pages, one by one in words that are plain otherwise, and words that English has borrowed, most
words being plain altogether. All else is for somebody to say who knows.
"""

from __future__ import annotations

import re

SIGNS = "‘’“”–—…´\N{NO-BREAK SPACE}°×½¼¾£€®©™"
ALONE = "–—…"  # signs that stand between words
# Of names and loanwords, without those whose bytes are frequent letters in Central Europe or Turkey.
_LOWER = "àáâäåçèéêëíîïñóôöúûü"
LETTERS = _LOWER + _LOWER.upper()

_IN_JSON = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{4}|.)")
_PLAIN = "abcdefghijklmnopqrstuvwxyz"
_WORD = re.compile(r"[^\W\d_]+")
_UNKNOWN = re.compile(f"[^\\x00-\\x7f{SIGNS}{LETTERS}]")
# The same letters in the code pages of Central Europe and the Baltic; any other is believed in the words that English
# has, since `začne` of Windows-1250 is `zaène`, and `māja` of Windows-1257 `mâja`.
_SAME = "éäöüó"
# fmt: off
_LENT = frozenset(
    {
        "à", "adèle", "aïda", "ångström", "après", "arête", "bête", "bière", "brontë", "brûlé", "brûlée", "brûlées",
        "château", "châteaux", "chloë", "citroën", "crèche", "crèches", "crème", "crèmes", "crêpe", "crêpes",
        "crêperie", "curaçao", "côte", "derrière", "déjà", "entrecôte", "entrecôtes", "façade", "façades", "français",
        "frère", "fête", "fêtes", "garçon", "genève", "gruyère", "hôtel", "jalapeño", "jalapeños", "lumière", "maître",
        "mañana", "moët", "molière", "mâché", "mère", "naïf", "naïve", "naïvely", "naïveté", "niña", "niño", "noël",
        "piña", "piñata", "piñatas", "père", "première", "premières", "provençal", "pâté", "pâtés", "rhône", "rôle",
        "rôles", "scène", "señor", "señora", "soupçon", "tête", "têtes", "voilà", "zoë",
    }
)
# fmt: on
_RUN = re.compile(f"[{LETTERS}]{{2}}|[^\\x00-\\x7f]{{4}}")


def foreign_text(content: str) -> str:
    """The first string of a JSON file that is not English, or ""."""
    for found in _IN_JSON.finditer(content):
        text = _ESCAPE.sub(" ", found[1])
        if not is_english(text):
            return text
    return ""


def is_english(text: str) -> bool:
    """Whether what is not ASCII in a text is as English writes it."""
    if text.isascii():
        return True
    if _UNKNOWN.search(text) or _RUN.search(text):
        return False
    for token in re.split(r"[ \t\r\n]+", text):
        if not token.isascii() and token not in ALONE and not re.search(r"[A-Za-z0-9]", token):
            return False
    words = _WORD.findall(text)
    accented = [word for word in words if not word.isascii()]
    if any(word.lower() not in _LENT and word.lower().strip(_SAME + _PLAIN) for word in accented):
        return False
    if any(2 * sum(not c.isascii() for c in word) > len(word) for word in accented):
        return False
    plain = len(words) - len(accented)
    return plain > 0 and len(accented) <= 2 * plain
