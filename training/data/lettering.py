"""Texts in pictures, in whatever script: each character in a font that has it, and escaped where none has.

matplotlib brings DejaVu (Latin, Greek, Cyrillic, Arabic and more). Chinese, Japanese and Korean need a font of the
machine, such as Debian's fonts-noto-cjk or fonts-wqy-microhei. A box that stands for a missing character would look the
same for right and wrong words; `\\u4f60` does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import ImageDraw, ImageFont

# Fonts with Chinese, Japanese or Korean, in order; others of the machine are looked at where these lack something.
PREFERRED = ("NotoSansCJK", "SourceHanSans", "wqy-microhei", "wqy-zenhei", "DroidSansFallback", "unifont")
OTHER_KINDS = ("bold", "italic", "oblique", "lastresort")  # the last has a box for every character


@dataclass(frozen=True)
class Letters:
    """A size in pixels. Has what a font of Pillow has to be measured by: `getlength`."""

    size: int

    def getlength(self, text: str) -> float:
        return sum(font.getlength(part) for font, part in self._runs(text))

    def draw(self, draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, fill: Any) -> None:
        """place: of the text's left end and its letters' top."""
        x, y = place
        for font, part in self._runs(text):
            draw.text((x, y + self.size), part, fill=fill, font=font, anchor="ls")  # on one base line
            x += font.getlength(part)

    def _runs(self, text: str) -> list[tuple[Any, str]]:
        found = groupby(text, key=lambda c: _file_of(c, candidates()))
        return [(_font(file, self.size), "".join(part)) for file, part in found]


def showable(text: str) -> str:
    """A text with what no font has as Python escapes it."""
    return "".join(c if c == " " or _file_of(c, candidates()) is not None else ascii(c)[1:-1] for c in text)


@lru_cache(maxsize=1)
def candidates() -> tuple[Path, ...]:
    """Files of fonts: DejaVu, then those of the machine, the preferred ones first."""
    import matplotlib
    from matplotlib.font_manager import findSystemFonts

    def order(path: Path) -> tuple[int, str]:
        return next((n for n, name in enumerate(PREFERRED) if path.name.startswith(name)), len(PREFERRED)), str(path)

    found = {Path(path) for path in findSystemFonts()}
    regular = [path for path in found if not any(kind in path.stem.lower() for kind in OTHER_KINDS)]
    dejavu = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return (dejavu, *sorted(regular, key=order))


@lru_cache(maxsize=4096)
def _file_of(character: str, files: tuple[Path, ...]) -> Path | None:
    return next((file for file in files if ord(character) in _characters(file)), None)


@cache
def _characters(file: Path) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(str(file)).get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()


@lru_cache(maxsize=64)
def _font(file: Path | None, size: int) -> Any:
    try:
        return ImageFont.truetype(str(file or candidates()[0]), size)
    except OSError:
        return ImageFont.load_default(size=size)
