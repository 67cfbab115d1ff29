"""What is known of the paper's sets (P1 Table 8; sections 4 and D for those of reasoning), and where copies live."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Known = Literal[
    "caltech101",
    "dtd",
    "eurosat",
    "fgvc_aircraft",
    "food101",
    "imagenet",
    "oxford_flowers",
    "oxford_pets",
    "stanford_cars",
    "sun397",
    "ucf101",
]
Benchmark = Literal["cv_bench", "mathvista", "mathvision", "puzzle_vqa", "algo_puzzle_vqa"]
KnownSet = Literal[Known, Benchmark]


@dataclass(frozen=True)
class Facts:
    """One of the eleven sets.

    Attributes:
        title: its name in the paper.
        classes: how many.
        test: images of the test set that the paper scores.
        question: the paper's.
        own_split: whether CoOp drew the split itself (50/20/30), so that no other copy has the paper's test set.
        open_question: the paper's without a list of names.
        open_spaces: whether underscores of a name may be spaces there.
    """

    title: str
    classes: int
    test: int
    question: str = "What type of object is in the photo?"
    own_split: bool = False
    open_question: str = "What type of object is in the photo?"
    open_spaces: bool = False


_SATELLITE = "What type of object is in the centered satellite photo?"

FACTS: dict[str, Facts] = {
    "caltech101": Facts("Caltech101", 100, 2465, own_split=True),
    "dtd": Facts("DTD", 47, 1692, "What type of texture is in the photo?", own_split=True),
    "eurosat": Facts("EuroSAT", 10, 8100, _SATELLITE, own_split=True),
    "fgvc_aircraft": Facts("FGVCAircraft", 100, 3333, "What type of aircraft is in the photo?"),
    "food101": Facts("Food101", 101, 30300, own_split=True, open_question="What type of food is in the photo?"),
    "imagenet": Facts("ImageNet", 1000, 50000),
    "oxford_flowers": Facts(
        "Flowers102", 102, 2463, own_split=True, open_question="What type of flower is in the photo?"
    ),
    "oxford_pets": Facts(
        "OxfordPets", 37, 3669, open_question="What type of animal is in the photo?", open_spaces=True
    ),
    "stanford_cars": Facts("StanfordCars", 196, 8041),
    "sun397": Facts("SUN397", 397, 19850),
    "ucf101": Facts("UCF101", 101, 3783, "What actions is the person performing in the photo?"),
}


@dataclass(frozen=True)
class TestSet:
    """A set of reasoning tasks that the paper tests on.

    Attributes:
        title: its name.
        test: samples that the paper scores, which its printed numbers fit.
        groups: samples of each of its parts.
    """

    title: str
    test: int
    groups: Mapping[str, int] = field(default_factory=dict)


REASONING: dict[str, TestSet] = {
    "cv_bench": TestSet("CV-Bench", 2638, {"Count": 788, "Relation": 650, "Depth": 600, "Distance": 600}),
    "mathvista": TestSet(
        "MathVista",
        1000,
        {
            "textbook question answering": 158,
            "visual question answering": 179,
            "geometry problem solving": 208,
            "math word problem": 186,
            "figure question answering": 269,
        },
    ),
    "mathvision": TestSet("MathVision", 304),
    "puzzle_vqa": TestSet("PuzzleVQA", 2000),
    "algo_puzzle_vqa": TestSet("AlgoPuzzleVQA", 1800),
}

COPIES: dict[str, KnownSet] = {
    "tanganke/dtd": "dtd",
    "mcimpoi/dtd_split_1": "dtd",
    "timm/eurosat-rgb": "eurosat",
    "blanchon/EuroSAT_RGB": "eurosat",
    "ethz/food101": "food101",
    "dpdl-benchmark/oxford_flowers102": "oxford_flowers",
    "nelorth/oxford-flowers": "oxford_flowers",
    "timm/oxford-iiit-pet": "oxford_pets",
    "tanganke/stanford_cars": "stanford_cars",
    "Donghyun99/Stanford-Cars": "stanford_cars",
    "tanganke/sun397": "sun397",
    "flwrlabs/ucf101": "ucf101",
    "mteb/ucf101": "ucf101",
    "flwrlabs/caltech101": "caltech101",
    "benjamin-paine/imagenet-1k": "imagenet",
    "evanarlian/imagenet_1k_resized_256": "imagenet",
    "nyu-visionx/CV-Bench": "cv_bench",
    "AI4Math/MathVista": "mathvista",
    "MathLLMs/MathVision": "mathvision",
    "declare-lab/PuzzleVQA": "puzzle_vqa",
    "stzhao/PuzzleVQA": "puzzle_vqa",
    "declare-lab/AlgoPuzzleVQA": "algo_puzzle_vqa",
    "stzhao/AlgoPuzzleVQA": "algo_puzzle_vqa",
}
"""Repositories of the Hugging Face hub that hold one of them, in a layout of their own."""


def compare(name: str, classes: int, test: int, kept: int, question: str, coop: bool) -> list[str]:
    """Say where a dataset differs from the paper's, one sentence each.

    Args:
        name: a key of `FACTS`.
        classes: how many classes the source has.
        test: how many test images the source has.
        kept: how many of them are kept.
        question: the dataset's.
        coop: whether the split is CoOp's.

    >>> compare("dtd", 47, 1880, 1880, FACTS["dtd"].question, coop=False)
    ["the test split is not CoOp's, which the paper scores", '1880 test images, the paper has 1692']
    """
    facts = FACTS[name]
    notes = []
    if classes != facts.classes:
        notes.append(f"{classes} classes, the paper has {facts.classes}")
    if not coop and (facts.own_split or test != facts.test):
        notes.append("the test split is not CoOp's, which the paper scores")
    if test != facts.test:
        notes.append(f"{test} test images, the paper has {facts.test}")
    if kept != test:
        notes.append(f"{kept} of {test} test images are kept")
    if question != facts.question:
        notes.append(f"the question is {question!r}, the paper's is {facts.question!r}")
    return notes


def compare_groups(name: str, groups: Mapping[str | None, int]) -> list[str]:
    """Say where a test set of reasoning tasks differs from the paper's, one sentence each.

    Args:
        name: a key of `REASONING`.
        groups: samples that are kept of each group; under None those without one.

    >>> compare_groups("mathvision", {None: 300}), compare_groups("puzzle_vqa", {"circle": 1000, "grid": 1000})
    (['300 test samples, the paper has 304'], [])
    """
    facts, total = REASONING[name], sum(groups.values())
    notes = [] if total == facts.test else [f"{total} test samples, the paper has {facts.test}"]
    found = Counter(groups)
    for group, count in facts.groups.items():
        if found[group] != count:
            notes.append(f"{found[group]} test samples of {group}, the paper has {count}")
    unknown = sorted(str(group) for group in found if facts.groups and group not in facts.groups and group is not None)
    return notes + [f"{group!r} is no part of the paper's" for group in unknown]
