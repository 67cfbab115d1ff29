"""What a picture that somebody has becomes: one that every reader takes for the same.

A picture of 8 bits without transparency, turn or further frames is kept byte for byte. Every other is written anew
once, when it is downloaded, so that nothing behind it (training, evaluation) has to know of it.
"""

import re
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageCms, UnidentifiedImageError

from stages.tasks.images import IMAGE_FAULTS

FORMATS = (
    *("AVIF", "BMP", "DDS", "DIB", "GIF", "HEIF", "ICNS", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "PSD"),
    *("QOI", "SGI", "TGA", "TIFF", "WEBP", "XBM", "XPM"),
)
"""What is read. Pillow knows more, which it opens by other programs or not at all (EPS, WMF, MPEG, HDF5)."""
EXIF, ORIENTATION, DATE_TIME, DATE_TIME_ORIGINAL, MAKE, MODEL = 0x8769, 0x0112, 0x0132, 0x9003, 0x010F, 0x0110
_TIFF_BITS, _TIFF_MEANING, _TIFF_LARGEST = 258, 262, 281
_STRIP = 256
"""Rows of a picture that are scaled at once: one of 100 megapixels and 16 bits fits into memory no second time."""
_DARKEST = 64
"""A picture whose mean is below such a part of white is black to the eye: its largest value may be a fault."""
_LOSSY = ("JPEG", "MPO", "HEIF")


FAULTS = (*IMAGE_FAULTS, TypeError, AttributeError, ArithmeticError, AssertionError, MemoryError, RuntimeError)
"""What Pillow raises about bytes that nobody has written as they are."""


class UnreadableError(Exception):
    """A picture whose pixels cannot be had; the message says why."""


@dataclass(frozen=True)
class Rules:
    """How pictures are read that can be read in several ways.

    Attributes:
        background: RGB, 0 to 255, under what is transparent.
        range: the values that are black and white in pictures of more than 8 bits; None: as `_range` finds them.
    """

    background: tuple[int, int, int] = (255, 255, 255)
    range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Picture:
    """A picture in RGB, upright and opaque.

    Attributes:
        image: its pixels.
        content: bytes that Pillow decodes to them; None where these have to be written, see `encoded`.
        changes: what was done to its pixels, in words, for the counts.
        taken: when and by which camera, as its EXIF says, or None.
        lossy: whether its source was, so that a lossy copy is as good.
    """

    image: Image.Image
    content: bytes | None
    changes: tuple[str, ...]
    taken: tuple[str, str] | None
    lossy: bool

    def encoded(self, lossless: bool = False) -> bytes:
        """What is stored: the source's bytes where they are plain; `lossless`: every pixel as it was read."""
        if self.content is not None:
            return self.content
        buffer = BytesIO()
        if self.lossy and not lossless:
            self.image.save(buffer, "JPEG", quality=95, subsampling=0)
        else:
            self.image.save(buffer, "PNG")
        return buffer.getvalue()


def heic() -> bool:
    """Whether HEIC can be read: pillow-heif is an extra."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def recognised(head: bytes) -> bool:
    """Whether a file begins as a picture of one of the common formats, whatever its name says.

    >>> recognised(b"\\x89PNG\\r\\n\\x1a\\n...."), recognised(b"label,path")
    (True, False)
    """
    riff = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    boxed = head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"heic", b"heix", b"mif1")
    begins = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
    return riff or boxed or head.startswith(begins)


def read(content: bytes, rules: Rules, thumbnail: int | None = None) -> Picture:
    """Read a picture; what is not its pixels never costs them.

    Args:
        content: the file.
        rules: how to read what can be read in several ways.
        thumbnail: an edge in pixels that is enough, where the pixels are only looked at: a JPEG is read as small as
            that at once.

    Raises:
        UnreadableError: there are no pixels in it, not all of them, or values of which nobody can say what is white.
    """
    try:
        return _read(content, rules, thumbnail, "")
    except Image.DecompressionBombError:
        limit = f"{2 * (Image.MAX_IMAGE_PIXELS or 0):,}"
        raise UnreadableError(f"has more pixels than Pillow reads; valid: at most {limit}") from None
    except FAULTS as error:
        first = error
    for mend, change in ((_with_end, ENDLESS), (_bare, METADATA)):
        with suppress(Image.DecompressionBombError, *FAULTS):
            if (mended := mend(content)) is not None:
                return _read(mended, rules, None, change)
    reason = "" if isinstance(first, UnidentifiedImageError) else f" ({' '.join(str(first).split())})"
    raise UnreadableError(f"cannot be read as an image{reason}")


def _read(content: bytes, rules: Rules, thumbnail: int | None, mended: str) -> Picture:
    Image.init()  # before the first picture of a process Pillow knows no format
    image = Image.open(BytesIO(content), formats=[name for name in FORMATS if name in Image.OPEN])
    kind = image.format
    changes = [mended] if mended else []
    written = False  # whether the source's bytes do not decode to these pixels
    if kind == "HEIF":
        changes, written = [*changes, "HEIC"], True
    if kind != "MPO" and _animated(image):
        image.seek(0)
        changes, written = [*changes, "the first frame of several"], True
    tags = dict(image.tag_v2) if kind == "TIFF" else {}
    deep, opened = _depth(image, tags), image
    if deep is not None:
        image, change = _scaled(image, content, deep, rules)
        changes, written = [*changes, change], True
    elif thumbnail is not None and kind in ("JPEG", "MPO"):
        image.draft(None, (thumbnail, thumbnail))
    orientation, taken = (1, None) if mended == METADATA else _exif(opened)
    image.load()
    _check_sums(content, kind)
    if mended == ENDLESS:
        _check_end(image, content)
    if image.mode in ("CMYK", "LAB"):
        changes, written = [*changes, f"{image.mode} as RGB"], True
        image = _to_rgb(image)
    image, laid = _opaque(image, rules.background)
    if laid:
        changes, written = [*changes, "transparent parts"], True
    image = image if image.mode == "RGB" else image.convert("RGB")
    if kind not in ("HEIF", "TIFF") and orientation in _TURNS:  # these are turned by who opens them
        image = image.transpose(_TURNS[orientation])
        changes, written = [*changes, "turned upright"], True
    # What is mended in the bytes of other formats is not: whoever reads them would stumble over it.
    written = written or bool(mended and kind not in ("JPEG", "MPO", "PNG"))
    image.info = {}
    kept = None if written else content
    return Picture(image, kept, tuple(changes), taken, kind in _LOSSY and deep is None and not laid)


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF's orientation, as `PIL.ImageOps.exif_transpose` has them."""


def _animated(image: Image.Image) -> bool:
    """Whether there are more frames than one, or something that should be one."""
    try:
        return bool(getattr(image, "is_animated", False))
    except FAULTS:
        return True


def _exif(image: Image.Image) -> tuple[int, tuple[str, str] | None]:
    """Orientation, and when and by which camera it was taken.

    Raises:
        one of `FAULTS`: the metadata is broken, and whoever reads this file later would stumble over it.
    """
    exif = image.getexif()
    orientation = exif.get(ORIENTATION, 1)
    try:
        own = exif.get_ifd(EXIF)
        time = own.get(DATE_TIME_ORIGINAL) or exif.get(DATE_TIME)
        taken = (str(time), f"{exif.get(MAKE, '')} {exif.get(MODEL, '')}") if time else None
    except FAULTS:
        taken = None
    return orientation if isinstance(orientation, int) else 1, taken


# --- more than 8 bits ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Deep:
    """A picture of more than 8 bits a channel: the mode that it has with 8, and the largest value that it declares."""

    mode: str
    largest: float | None = None
    inverted: bool = False


def _depth(image: Image.Image, tags: dict[int, Any]) -> Deep | None:
    """How deep a picture is, None if 8 bits; nothing is decoded."""
    raw = _raw_mode(image)
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        bits = tags.get(_TIFF_BITS, (0,))
        bits = bits[0] if isinstance(bits, tuple) else bits
        largest: float | None = None
        if mode != "F" and 8 < bits < 16:
            largest = 2**bits - 1
        elif mode == "I" and image.format == "PPM":
            largest = 65535  # Pillow has scaled it to that
        return Deep(mode, _declared(tags) or largest, tags.get(_TIFF_MEANING) == 0)
    if ";16" in raw and (mode in ("RGB", "RGBA", "CMYK", "RGBX") or raw.startswith("LA;16")):
        return Deep("LA" if raw.startswith("LA") else mode, _declared(tags))
    return None


def _raw_mode(image: Image.Image) -> str:
    """How the pixels lie in the file, in Pillow's words."""
    for tile in getattr(image, "tile", None) or []:
        args = tile[3]
        raw = args[0] if isinstance(args, tuple) and args else args
        return raw if isinstance(raw, str) else ""
    return ""


def _declared(tags: dict[int, Any]) -> float | None:
    """The largest value that a TIFF says that it has."""
    largest = tags.get(_TIFF_LARGEST)
    largest = largest[0] if isinstance(largest, tuple) and largest else largest
    return float(largest) if isinstance(largest, int) and largest > 255 else None


def _scaled(image: Image.Image, content: bytes, deep: Deep, rules: Rules) -> tuple[Image.Image, str]:
    """A picture with 8 bits a channel, and what was done.

    Raises:
        UnreadableError: see `_range`.
    """
    strips, mode = _strips(image, content, deep)
    smallest, largest, opaque, whole = np.inf, -np.inf, 255.0, True
    total, count = 0.0, 0
    for values in strips():
        if not np.isfinite(values).all():
            raise UnreadableError("has values that are no numbers (NaN or infinite)")
        colours = values[..., :-1] if mode in ("LA", "RGBA") else values
        total, count = total + float(colours.sum(dtype=np.float64)), count + colours.size
        smallest, largest = min(smallest, float(colours.min())), max(largest, float(colours.max()))
        opaque, whole = (
            max(opaque, float(values[..., -1].max()) if mode in ("LA", "RGBA") else 0),
            values.dtype.kind != "f",
        )
    low, high, words = _range(smallest, largest, whole, deep.largest, rules)
    if rules.range is None and largest > 0 and total / count < high / _DARKEST:
        raise UnreadableError(f"is black by its largest value ({largest:g}); set range: [black, white]")
    parts = []
    for values in strips():
        part = _bytes_of(values, low, high)
        if mode in ("LA", "RGBA"):
            part[..., -1] = _bytes_of(values[..., -1], 0, 65535 if opaque > 4095 else 4095 if opaque > 255 else 255)
        parts.append(255 - part if deep.inverted else part)
    found = Image.fromarray(np.concatenate(parts), "CMYK" if mode == "CMYK" else None)
    if (alpha := _transparent_values(image, strips, mode)) is not None:
        found.putalpha(alpha)
    if "icc_profile" in image.info:
        found.info["icc_profile"] = image.info["icc_profile"]
    return found, words


def _bytes_of(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values from `low` to `high` as bytes.

    >>> _bytes_of(np.array([0, 2048, 4095]), 0, 4095).tolist()
    [0, 128, 255]
    """
    scaled = (values.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def _range(
    smallest: float, largest: float, whole: bool, declared: float | None, rules: Rules
) -> tuple[float, float, str]:
    """Which values are black and white, and that in words.

    Whole numbers: what the file declares, else the fewest bits of 8, 10, 12, 14 and 16 that hold them. Others: 0 to 1,
    or 0 to 255.

    Raises:
        UnreadableError: the values have no range of these, and none is set.
    """
    if rules.range is not None:
        return *rules.range, "more than 8 bits, by the range that is set"
    if whole and smallest >= 0:
        if declared is not None and largest <= declared:
            return 0, declared, f"values up to {int(declared)}"
        for bits in (8, 10, 12, 14, 16):
            if largest < 2**bits:
                return 0, 2**bits - 1, f"values up to {2**bits - 1}"
    if not whole and smallest >= 0 and largest <= 255:
        top = 1 if largest <= 1 else 255
        return 0, top, f"values up to {top}"
    found = f"{smallest:g} to {largest:g}"
    raise UnreadableError(
        f"has values from {found}, none of which is known as white; set range: [{smallest:g}, {largest:g}] or another"
    )


def _strips(image: Image.Image, content: bytes, deep: Deep) -> tuple[Callable[[], Iterator[np.ndarray]], str]:
    """The values of a picture, some rows at a time, and the mode that it has with 8 bits."""

    def rows(of: Image.Image) -> Iterator[np.ndarray]:
        return (np.asarray(of.crop(box)) for box in _boxes(of.size))

    if deep.mode.startswith("I") or deep.mode == "F":
        image.load()
        return lambda: rows(image), "L"
    if deep.mode == "LA":
        # Its four bytes a pixel are read as four channels.
        image.tile = [_with_raw(tile, "RGBA") for tile in image.tile]
        image.load()
        return lambda: (part[..., 0::2].astype(np.uint16) * 256 + part[..., 1::2] for part in rows(image)), "LA"
    # Pillow keeps the upper byte of each value. Read in the other order of bytes, the same file gives the lower ones.
    again = Image.open(BytesIO(content), formats=[str(image.format)])
    again.tile = [_with_raw(tile, _other_order(_raw_mode(again))) for tile in again.tile]
    image.load()
    again.load()
    return (
        lambda: (upper.astype(np.uint16) * 256 + lower for upper, lower in zip(rows(image), rows(again), strict=True)),
        "RGB" if deep.mode == "RGBX" else deep.mode,
    )


def _boxes(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    for top in range(0, size[1], _STRIP):
        yield 0, top, size[0], min(top + _STRIP, size[1])


def _with_raw(tile: Any, raw: str) -> Any:
    args = (raw, *tile[3][1:]) if isinstance(tile[3], tuple) else raw
    return tile._replace(args=args)


def _other_order(raw: str) -> str:
    """The raw mode of the other order of bytes.

    >>> _other_order("RGB;16B"), _other_order("RGBA;16L")
    ('RGB;16L', 'RGBA;16B')
    """
    mode, _, order = raw.partition(";16")
    little = order.startswith("L") or (order.startswith("N") and sys.byteorder == "little")
    return f"{mode};16{'B' if little else 'L'}{order[1:]}"


def _transparent_values(
    image: Image.Image, strips: Callable[[], Iterator[np.ndarray]], mode: str
) -> Image.Image | None:
    """The opacity of a picture one of whose values stands for what is transparent."""
    value = image.info.get("transparency")
    if mode not in ("L", "RGB") or value is None or isinstance(value, bytes):
        return None
    parts = []
    for values in strips():
        same = values == np.asarray(value)
        parts.append(np.where(same.all(-1) if mode == "RGB" else same, 0, 255).astype(np.uint8))
    return Image.fromarray(np.concatenate(parts))


# --- colours ------------------------------------------------------------------------------------------------------


def _to_rgb(image: Image.Image) -> Image.Image:
    """By the picture's own profile, where it has one that can be read."""
    profile = image.info.get("icc_profile")
    try:
        source: Any = ImageCms.createProfile("LAB") if image.mode == "LAB" else None
        if profile and image.mode == "CMYK":
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if source is not None:
            found = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if found is not None:
                return found
    except (ImageCms.PyCMSError, *FAULTS):
        if image.mode == "LAB":
            raise ValueError("colours of LAB that cannot be converted") from None
    return image.convert("RGB")


def _opaque(image: Image.Image, background: tuple[int, int, int]) -> tuple[Image.Image, bool]:
    """The picture on a background, and whether anything of that shows."""
    if image.mode not in ("RGBA", "LA", "PA", "RGBa", "La") and "transparency" not in image.info:
        return image, False
    layered = image.convert("RGBA")
    if layered.getextrema()[3][0] == 255:
        # The same as what is decoded later, which leaves the opacity out.
        return image.convert("RGB"), False
    ground = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(ground, layered).convert("RGB"), True


# --- what is broken beside the pixels -----------------------------------------------------------------------------

ENDLESS = "no end marker"
METADATA = "broken metadata left out"
_PNG, _JPEG_END = b"\x89PNG\r\n\x1a\n", b"\xff\xd9"
_QOI_END = bytes(7) + b"\1"
_HOLLOW = 16
"""Zeros in a row at the end of compressed data, from which on something was lost."""


def _with_end(content: bytes) -> bytes | None:
    """A JPEG that has no end marker, with one; None for what needs none.

    Zeros at the end, which a card or a broken download leaves, are no data.
    """
    if not content.startswith(b"\xff\xd8\xff") or content.find(_JPEG_END, _segments(content)[1]) >= 0:
        return None
    data = content.rstrip(b"\0")
    return data.removesuffix(b"\xff") + (b"\xff\0" if data.endswith(b"\xff") and data != content else b"") + _JPEG_END


def _bare(content: bytes) -> bytes | None:
    """A file without all that is not needed for its pixels; None where something is lost that is."""
    if content.startswith(_PNG):
        chunks = [each for each in _chunks(content) if each.whole and each.kind in (b"IHDR", b"PLTE", b"IDAT", b"tRNS")]
        if content[25:26] == b"\3" and all(each.kind != b"PLTE" for each in chunks):
            return None  # indices of colours that are not there
        kept = [
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data, _ in chunks
        ]
        end = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
        return b"".join([_PNG, *kept, end])
    if content.startswith(b"\xff\xd8\xff"):
        segments, data = _segments(content)
        # Adobe's says which colours they are.
        needed = [each for each in segments if not (0xE0 <= each[1] <= 0xEF or each[1] == 0xFE) or each[1] == 0xEE]
        return b"".join([b"\xff\xd8", *needed, content[data:]])
    return content


class _Chunk(NamedTuple):
    """A part of a PNG, and whether it is as it was written."""

    kind: bytes
    data: bytes
    whole: bool


def _chunks(content: bytes) -> Iterator[_Chunk]:
    """The chunks of a PNG as far as they go."""
    place = len(_PNG)
    while place + 12 <= len(content):
        (size,) = struct.unpack(">I", content[place : place + 4])
        kind, data = content[place + 4 : place + 8], content[place + 8 : place + 8 + size]
        sum_ = struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
        yield _Chunk(kind, data, content[place + 8 + size : place + 12 + size] == sum_)
        place += 12 + size


def _segments(content: bytes) -> tuple[list[bytes], int]:
    """The segments of a JPEG before its data, and where these begin."""
    place, found = 2, []
    while place + 4 <= len(content) and content[place] == 0xFF and content[place + 1] != 0xDA:
        if content[place + 1] == 0xFF:  # padding
            place += 1
            continue
        (size,) = struct.unpack(">H", content[place + 2 : place + 4])
        found.append(content[place : place + 2 + size])
        place += 2 + size
    return found, place


def _check_end(image: Image.Image, content: bytes) -> None:
    """Refuse a JPEG whose data end before its last pixels, which libjpeg then makes up and says nothing.

    What stands between the last pixel and the end marker changes none. So where other bytes in its place do, pixels
    were made up. Of a progressive one, whole scans may be missing too.
    """
    data = content.removesuffix(_JPEG_END)
    for more in (b"\x55" * 64, b"\xaa" * 64):
        other = Image.open(BytesIO(data + more + _JPEG_END), formats=["JPEG"])
        if ImageChops.difference(image, other).getbbox(alpha_only=False) is not None:
            raise OSError("image file is truncated")
    if image.info.get("progressive") and not _all_scans(content):
        raise OSError("image file is truncated")


def _all_scans(content: bytes) -> bool:
    """Whether the scans of a progressive JPEG say each bit of each coefficient of its components."""
    segments, begin = _segments(content)
    frame = next(each for each in segments if each[1] == 0xC2)
    exact: dict[int, set[int]] = {frame[10 + 3 * i]: set() for i in range(frame[9])}
    for found in re.finditer(b"\xff\xda", content[begin:]):
        head = content[begin + found.start() + 4 :]
        count = head[0]
        first, last, bits = head[1 + 2 * count : 4 + 2 * count]
        for i in range(count):
            if bits & 15 == 0:
                exact.get(head[1 + 2 * i], set()).update(range(first, last + 1))
    return all(len(each) == 64 for each in exact.values())


def _media(content: bytes) -> Iterator[bytes]:
    """The compressed data of an AVIF or a HEIC: what is in its boxes `mdat`, up to the end of the file."""
    place = 0
    while place + 8 <= len(content):
        size, head = int.from_bytes(content[place : place + 4], "big"), 8
        if size == 1:
            size, head = int.from_bytes(content[place + 8 : place + 16], "big"), 16
        end = place + max(size, head) if size else len(content)
        if content[place + 4 : place + 8] == b"mdat":
            yield content[place + head : end]
        place = end


def _check_sums(content: bytes, kind: str | None) -> None:
    """Refuse pixels that are not those that were written, where the file says it and Pillow does not look.

    Raises:
        SyntaxError: a PNG's data have another checksum, those of a WEBP, an AVIF or a HEIC end in zeros, or
            there is no end marker.
    """
    if kind in ("PNG", "ICO", "ICNS"):
        for begin in re.finditer(re.escape(_PNG), content):
            for name, _, whole in _chunks(content[begin.start() :]):
                if name in (b"IHDR", b"PLTE", b"IDAT") and not whole:
                    raise SyntaxError(f"broken PNG file, checksum of {name.decode()}")
                if name == b"IEND":
                    break
    elif kind == "WEBP":
        place = 12
        while place + 8 <= len(content):
            size = int.from_bytes(content[place + 4 : place + 8], "little")
            if content[place : place + 4] in (b"VP8 ", b"VP8L"):
                data = content[place + 8 : place + 8 + size]
                if data.endswith(bytes(_HOLLOW)):
                    raise SyntaxError("broken WEBP file, zeros at the end of its data")
            place += 8 + size + size % 2
    elif kind in ("AVIF", "HEIF"):
        if any(data.endswith(bytes(_HOLLOW)) for data in _media(content)):
            raise SyntaxError(f"broken {kind} file, zeros at the end of its data")
    elif (kind == "QOI" and not content.endswith(_QOI_END)) or (
        kind in ("JPEG", "MPO") and _with_end(content) is not None
    ):
        raise SyntaxError("image file is truncated")
