"""All pictures of a source looked at once: which can be read, and which have to stay on one side of a split.

Copies are found by their bytes, near copies (bursts, other sizes and qualities, mild crops) by difference hashes of
the library imagehash: whether each of 8 x 8 cells is darker than its neighbour, to the right and below. They are
computed in whole numbers, so that no processor gives others. A crop is like a window of the picture that it is from.
"""

import os
import re
import sys
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from itertools import pairwise, product
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from stages.sources import pictures
from stages.sources.pictures import Rules, UnreadableError

BITS = 12
"""How many of 128 bits may differ between near copies. Measured (tests/test_copies.py): of copies of lower quality or
half the size at least 19 of 20 are found, of unlike photographs none."""
SMALLEST = 64
"""Pixels of the longer side below which only equal bytes are copies. Of 1,500 garments in 32 x 32 pixels 0.02% of the
pairs were taken for near copies, and by these a whole class of trousers hung together."""
WINDOW_BITS = 14
"""Likewise between a picture and a window of another; crops to nine tenths are found one time in two."""
_WINDOWS = [(scale, x, y) for scale in (0.9, 0.8) for x, y in ((0.5, 0.5), (0, 0), (1, 0), (0, 1), (1, 1))]
_EDGE = 256
_PLAIN = 3.0
"""Standard deviation, of 0 to 255, below which a picture shows nothing to know it by: it has no near copies."""
_ROWS, _COLUMNS = 16, 8192
"""Hashes that are compared at once, few enough to stay in a processor's cache: all of 100,000 in minutes."""
_WORKERS = 2
"""Pictures that are decoded at once: each may have 100 megapixels."""

Item, Result = TypeVar("Item"), TypeVar("Result")


@dataclass(frozen=True)
class Look:
    """What is kept of a picture that was looked at.

    Attributes:
        digest: of its bytes.
        hashes: of the whole and of its windows, uint64 (1 + windows, 2); None where it shows nothing to know it by.
        taken: see `stages.sources.pictures.Picture`.
        single_colour: whether it shows one colour and nothing else.
        blackened: whether a quarter of it or more is black, from its top or its bottom on, as where data were lost
            that no checksum guards.
    """

    digest: bytes
    hashes: np.ndarray | None
    taken: tuple[str, str] | None
    single_colour: bool
    blackened: bool = False


def progress(items: Iterable[Item], total: int, what: str, unit: str = " images") -> Iterator[Item]:
    """The items, with a bar on the screen where they take longer than some seconds."""
    from tqdm import tqdm

    slow = 0.5 if sys.stderr.isatty() else 30
    return iter(tqdm(items, desc=what, total=total, unit=unit, delay=5, mininterval=slow, file=sys.stderr))


def in_order(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
    """Work on items at once, in their order, with few of them in memory."""
    workers = min(_WORKERS, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool, warnings.catch_warnings():
        # Of large pictures, and of metadata that is out of order: once for all threads, which share what is filtered.
        warnings.simplefilter("ignore")
        waiting: deque[Any] = deque()
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) > 2 * workers:
                first, result = waiting.popleft()
                yield first, result.result()
        for first, result in waiting:
            yield first, result.result()


def look(contents: Sequence[bytes] | UnreadableError, rules: Rules, near: bool) -> Look | UnreadableError:
    """Look at the pictures of one sample; hashes are computed with `near`, and of single pictures."""
    if isinstance(contents, UnreadableError):
        return contents
    digest = blake2b(digest_size=16)
    single_colour, blackened, hashes, taken = True, False, None, None
    try:
        for content in contents:
            digest.update(len(content).to_bytes(8, "big") + content)
            picture = pictures.read(content, rules, _EDGE)
            taken = picture.taken
            single_colour = single_colour and all(low == high for low, high in picture.image.getextrema())
            blackened = blackened or _blackened(picture.image)
            if near and len(contents) == 1 and max(picture.image.size) >= SMALLEST:
                hashes = hashes_of(picture.image)
    except UnreadableError as error:
        return error
    return Look(digest.digest(), hashes, taken, single_colour, blackened)


def _blackened(image: Image.Image) -> bool:
    """Whether all is black in its upper or in its lower quarter.

    >>> lower = Image.new("RGB", (4, 8), "white")
    >>> lower.paste((0, 0, 0), (0, 6, 4, 8))
    >>> _blackened(lower), _blackened(Image.new("RGB", (4, 8), "white"))
    (True, False)
    """
    shown = image.getbbox()
    return shown is None or 4 * max(shown[1], image.height - shown[3]) >= image.height


def hashes_of(image: Image.Image) -> np.ndarray | None:
    """Difference hashes of a picture and of its windows, uint64 (1 + windows, 2); None where it shows nothing."""
    import imagehash

    small = image.convert("L")
    small.thumbnail((_EDGE, _EDGE), Image.Resampling.BOX)
    if np.asarray(small).std() < _PLAIN:
        return None
    width, height = small.size
    views = [small]
    for scale, x, y in _WINDOWS:
        left, top = (width - width * scale) * x, (height - height * scale) * y
        box = (left, top, left + width * scale, top + height * scale)
        views.append(small.resize((64, 64), Image.Resampling.BILINEAR, box))
    found = [[imagehash.dhash(view).hash, imagehash.dhash_vertical(view).hash] for view in views]
    return np.packbits(np.array(found).reshape(len(views), 2, 64), axis=-1).view(np.uint64)[..., 0]


class Sides:
    """Which samples have to stay on one side: sets that grow together."""

    def __init__(self, count: int):
        self._parent = list(range(count))

    def join(self, first: int, second: int) -> None:
        """Both, and all that is with them, stay together."""
        low, high = sorted((self.of(first), self.of(second)))
        self._parent[high] = low

    def of(self, index: int) -> int:
        """The number of a sample's set: its first member."""
        while self._parent[index] != index:
            self._parent[index] = self._parent[self._parent[index]]
            index = self._parent[index]
        return index


def near_pairs(looks: Sequence[Look], what: str) -> Iterator[tuple[int, int]]:
    """Pairs of places of near copies."""
    places = np.array([place for place, each in enumerate(looks) if each.hashes is not None], dtype=np.int64)
    if len(places) < 2:
        return
    # By view and half, so that what is compared lies together in memory.
    views = np.ascontiguousarray(np.stack([x.hashes for x in looks if x.hashes is not None]).transpose(1, 2, 0))
    starts = range(0, len(places), _ROWS)
    for start in progress(starts, len(starts), f"{what}: near copies", f" times {_ROWS} images"):
        rows = views[0, :, start : start + _ROWS]
        for view, first in product(range(len(views)), range(0, len(places), _COLUMNS)):
            allowed = BITS if view == 0 else WINDOW_BITS
            others = views[view, :, first : first + _COLUMNS]
            # The first half of the bits leaves few pairs for the second.
            apart = np.bitwise_count(rows[0][:, None] ^ others[0])
            if not (close := apart <= allowed).any():
                continue
            i, j = np.nonzero(close)
            both = apart[i, j] + np.bitwise_count(rows[1][i] ^ others[1][j]) <= allowed
            for one, other in zip(i[both] + start, j[both] + first, strict=True):
                if one != other:
                    yield int(places[one]), int(places[other])


def by_time(taken: Sequence[tuple[str, str] | None], seconds: float) -> Iterator[tuple[int, int]]:
    """Pairs of places of pictures that one camera took within so many seconds of each other.

    >>> list(by_time([("2020:01:01 10:00:00", "a"), ("2020:01:01 10:00:04", "a"), ("2020:01:01 10:00:05", "b")], 5))
    [(0, 1)]
    """
    times: dict[str, list[tuple[datetime, int]]] = defaultdict(list)
    for place, each in enumerate(taken):
        if (when := time_of(each)) is not None and each is not None:
            times[each[1]].append((when, place))
    for found in times.values():
        found.sort()
        for (earlier, first), (later, second) in pairwise(found):
            if (later - earlier).total_seconds() <= seconds:
                yield first, second


def time_of(taken: tuple[str, str] | None) -> datetime | None:
    """The time that EXIF says, None where it is none."""
    parts = re.findall(r"\d+", taken[0]) if taken else []
    try:
        return datetime(*map(int, parts[:6])) if len(parts) >= 6 else None
    except ValueError:
        return None
