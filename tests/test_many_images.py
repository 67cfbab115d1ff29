"""Very many images, very many classes, and a large image: memory stays bounded, and progress is shown."""

import sys
from functools import partial
from itertools import islice, permutations

import numpy as np
import pytest
import tqdm
from PIL import Image

from benchmarks import many_images
from stages.runtime.files import read_json
from stages.sources import survey
from tests.test_own_images import encoded, fetch, kept, put

__all__ = ["fetch"]

INDEX = 4
"""kB that an image may take in memory: its path, its place, its hashes and its digest."""


@pytest.mark.slow
def test_memory_grows_by_an_index_alone():
    """`benchmarks/many_images.py` measures 100,000; here 4,000, whose files are a hundred times their index."""
    few, many = (many_images.measure(partial(many_images.make_images, count=count)) for count in (400, 4000))
    assert many["own"] - few["own"] < 3600 * INDEX / 1024 + 16
    assert many["stored"] > 10


@pytest.mark.slow
def test_an_image_of_100_megapixels_is_read():
    found = many_images.measure(partial(many_images.make_large, deep=False))
    assert found["own"] < 1500


@pytest.mark.slow
def test_two_thousand_classes_of_unequal_sizes(fetch, tmp_path, capsys):
    """One of 200 images, all others of three; each is counted, and thirty are printed."""
    random = np.random.default_rng(0)
    names = ["".join(letters) for letters in islice(permutations("acegikmoqsuwy", 4), 2000)]
    for label, name in enumerate(names):
        for number in range(200 if label == 0 else 3):
            image = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
            put(tmp_path / "images" / name / f"{number}.bmp", encoded(image, "BMP"))
    found = kept(fetch(test_per_class=0.4, validation_per_class=0.2, train_per_class=100))
    assert len(found) == 2000
    assert found[names[0]] == {"train": 80, "validation": 40, "test": 80}
    assert all(found[name] == {"train": 1, "validation": 1, "test": 1} for name in names[1:])
    counts = read_json("metrics/records/download/mine.json")["counts"]
    assert counts["found"] == 200 + 1999 * 3
    said = capsys.readouterr().out.splitlines()
    assert "download.mine: and 1970 more classes" in said
    assert len(said) < 40


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown_of_what_takes_longer(monkeypatch, capfd, terminal):
    """From five seconds on; here from none."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    bar = tqdm.tqdm
    monkeypatch.setattr(tqdm, "tqdm", lambda *given, **named: bar(*given, **named | {"delay": 0, "mininterval": 0}))
    assert list(survey.progress(range(3), 3, "download.mine")) == [0, 1, 2]
    shown = capfd.readouterr().err
    assert "download.mine: 100%" in shown
    assert "3/3" in shown
