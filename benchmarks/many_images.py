"""What stage `download` takes for a folder of very many images, and for one image of 100 megapixels.

    python -m benchmarks.many_images                   # 1,000, 10,000 and 100,000 images, then the large ones
    python -m benchmarks.many_images --images 1000     # as many as these alone

Images are JPEGs of 160 x 120 pixels in 200 classes, each unlike all others, in a temporary folder; the stage runs as
`dvc repro` runs it, in a process of its own, with the section of `params.yaml` that a user writes and all images kept.
Memory is that process's own at its highest: with what it maps of the file that it writes (`ru_maxrss`), which the
system takes back when it needs it, and without that (`RssAnon`, seen ten times a second).
"""

import io
import json
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
CLASSES = 200
SIZE = (160, 120)
LARGE = 10_000
"""Pixels of a side: 100 megapixels."""

CHILD = """
import json, resource, sys
from stages.download import download
download("mine")
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss), file=sys.stderr)
"""


def make_images(folder: Path, count: int) -> None:
    """So many JPEGs in `CLASSES` folders: coarse patterns by chance, which no hash takes for each other."""
    random = np.random.Generator(np.random.PCG64(0))
    for number in range(count):
        path = folder / f"class {number % CLASSES:03}" / f"{number // CLASSES:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pattern = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        pattern.resize(SIZE, Image.Resampling.BICUBIC).save(path, "JPEG", quality=90)


def make_large(folder: Path, deep: bool) -> None:
    """Two classes of two small images, and in one a large one: a JPEG, or with `deep` a PNG of 16 bits a channel."""
    make_images(folder, 2 * CLASSES)
    for path in sorted(folder.iterdir())[2:]:
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    row = np.linspace(0, 65535, LARGE).astype(np.uint16)
    if not deep:
        pixels = np.broadcast_to((row >> 8).astype(np.uint8)[:, None], (LARGE, LARGE, 3))
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / "class 000/large.jpg", "JPEG", quality=90)
        return
    line = b"\0" + np.repeat(row.astype(">u2"), 3).tobytes()
    packer, data = zlib.compressobj(1), io.BytesIO()
    for _ in range(LARGE):
        data.write(packer.compress(line))
    data.write(packer.flush())
    with (folder / "class 000/large.png").open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        head = struct.pack(">IIBBBBB", LARGE, LARGE, 16, 2, 0, 0, 0)
        for kind, content in ((b"IHDR", head), (b"IDAT", data.getvalue()), (b"IEND", b"")):
            check = struct.pack(">I", zlib.crc32(kind + content))
            file.write(struct.pack(">I", len(content)) + kind + content + check)


def measure(make: Callable[[Path], None]) -> dict[str, float]:
    """Seconds, and memory in MB, of the stage on the images that `make` writes into a folder.

    Raises:
        SystemExit: the stage failed; with its output.
    """
    with tempfile.TemporaryDirectory(prefix="many-images-") as name:
        project, images = Path(name) / "project", Path(name) / "images"
        project.mkdir()
        make(images)
        section = {"source": "folder", "path": str(images), "question": "What is it?", "seed": 0}
        section |= {"train_per_class": None, "test_per_class": 0.2}
        with (project / "params.yaml").open("w", encoding="utf-8") as file:
            YAML().dump({"download": {"mine": section}}, file)
        begun, own = time.perf_counter(), 0
        with (project / "said").open("w+", encoding="utf-8") as said:
            command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}){CHILD}"]
            child = subprocess.Popen(command, cwd=project, stdout=subprocess.DEVNULL, stderr=said)
            while child.poll() is None:
                own = max(own, anonymous(child.pid))
                time.sleep(0.1)
            seconds = time.perf_counter() - begun
            said.seek(0)
            text = said.read()
        if child.returncode:
            raise SystemExit(f"error: download ended with {child.returncode}\n{text}")
        stored = sum(path.stat().st_size for path in (project / "data").rglob("*") if path.is_file())
        peak = json.loads(text.splitlines()[-1])
    return {"seconds": seconds, "peak": peak / 1024, "own": own / 1024, "stored": stored / 2**20}


def anonymous(process: int) -> int:
    """kB of memory that a process has for itself."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon:")), 0)


def main(
    images: Annotated[list[int] | None, typer.Option(min=2 * CLASSES, help="how many; none: a row for each")] = None,
) -> None:
    """Print what stage `download` takes."""
    rows: dict[str, Callable[[Path], None]] = {
        f"{count:,} images in {CLASSES} classes": lambda folder, count=count: make_images(folder, count)
        for count in images or (1000, 10_000, 100_000)
    }
    if not images:
        rows["four images, and one of 100 megapixels (JPEG)"] = lambda folder: make_large(folder, deep=False)
        rows["the same with 16 bits a channel (PNG)"] = lambda folder: make_large(folder, deep=True)
    print("| what | seconds | peak, MB | of this its own, MB | stored, MB |\n|---|---|---|---|---|", flush=True)
    for what, make in rows.items():
        found = measure(make)
        numbers = " | ".join(f"{found[name]:,.0f}" for name in ("seconds", "peak", "own", "stored"))
        print(f"| {what} | {numbers} |", flush=True)


if __name__ == "__main__":
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command.command()(main)
    command()
