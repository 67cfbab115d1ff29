"""Each reward on completions written by hand, worked out by hand."""

import json
import math
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from math_verify import parse, verify

from stages.methods.answers import in_tags
from stages.methods.method import load
from stages.methods.method import names as methods
from stages.rewards import reward as rewards
from stages.rewards.reward import Completion
from stages.runtime.params import read_params
from stages.tasks import classification, detection, region, rules
from stages.tasks import task as tasks
from stages.tasks.task import Sample
from tests.conftest import ROOT

# completion, answer -> accuracy, format, equality, answer_first_format, adaptive_format
TABLE = [
    ("river", "river", 1, 0, 1, 0, 0),
    ("River", "river", 1, 0, 0, 0, 0),
    (" river", "river", 1, 0, 0, 0, 0),
    ("river.", "river", 0, 0, 0, 0, 0),
    ("a river", "river", 0, 0, 0, 0, 0),
    ("", "river", 0, 0, 0, 0, 0),
    ("<answer>river</answer>", "river", 1, 0, 0, 0, 1),
    ("<answer> River </answer>", "river", 1, 0, 0, 0, 1),
    ("<answer>forest</answer>", "river", 0, 0, 0, 0, 1),
    ("<answer>river or forest</answer>", "river", 0, 0, 0, 0, 1),
    ("<answer>forest</answer><answer>river</answer>", "river", 0, 0, 0, 0, 1),
    ("<think>Wet.</think><answer>river</answer>", "river", 1, 1, 0, 0, 1),
    ("<think>Wet.</think>\n\n<answer>river</answer>", "river", 1, 1, 0, 0, 1),
    ("<think>Wet.\nBlue.</think> <answer>forest</answer>", "river", 0, 1, 0, 0, 1),
    ("<think>Wet.</think> <answer>river</answer>.", "river", 1, 0, 0, 0, 0),
    (" <think>Wet.</think> <answer>river</answer>", "river", 1, 0, 0, 0, 0),
    ("<think>Wet.</think> so <answer>river</answer>", "river", 1, 0, 0, 0, 0),
    ("<think>Wet.</think> <answer>river", "river", 0, 0, 0, 0, 0),
    ("<think></think><answer></answer>", "river", 0, 1, 0, 0, 1),
    ("<answer>river</answer> <reason>Wet.</reason>", "river", 1, 0, 0, 1, 0),
    ("<answer>forest</answer><reason>Trees.\nMany.</reason>", "river", 0, 0, 0, 1, 0),
    ("<reason>Wet.</reason> <answer>river</answer>", "river", 1, 0, 0, 0, 0),
    # The answer tag may not span lines in training (P1 code), so the whole text is compared.
    ("<answer>\nriver\n</answer>", "river", 0, 0, 0, 0, 1),
    ("<answer>7.0</answer>", "7", 0, 0, 0, 0, 1),
    ("<answer>8</answer>", "7", 0, 0, 0, 0, 1),
]
NAMES = ("accuracy", "format", "equality", "answer_first_format", "adaptive_format")


LENGTH = {"weight": 1.0, "steepness": 1.0, "midpoint": 2.0, "unit": 8.0, "correct_only": None}


def pay(name: str, completion: str, answer: str, tokens: int = 9, **params: object) -> float:
    """What a reward pays for a completion about a classified image, its answer read as most methods read it."""
    reward, _weight = rewards.load(name, params)
    return reward(
        Completion(completion, rules.tagged(completion), tokens),
        Sample("Which?", answer, (answer, "something else")),
        classification.Task(),
    )


@pytest.mark.parametrize("name", NAMES)
def test_golden_table(name):
    column = NAMES.index(name) + 2
    rule = {"rule": "exact"} if name == "accuracy" else {}
    got = [(row[0], pay(name, row[0], row[1], **rule)) for row in TABLE]
    assert got == [(row[0], float(row[column])) for row in TABLE]


# completion, label -> accuracy as published, exact accuracy, format, equality: what the authors' functions give.
T = "<think>ok</think> "
VECTORS = [
    (T + "<answer>BAE 146-300</answer>", "BAE 146-200", 1, 0, 1, 0),
    (T + "<answer>737-300</answer>", "737-200", 0, 0, 1, 0),
    (T + "<answer>2012 BMW 1 Series Coupe</answer>", "2012 BMW 1 Series Convertible", 1, 0, 1, 0),
    ("<think>Either a Cessna 208 or a 172 here.</think> <answer>DC-3</answer>", "Cessna 172", 1, 0, 1, 0),
    (T + "<answer>2012 Audi R8 Coupe</answer>", "2012 BMW M3 Coupe", 0, 0, 1, 0),
    ("<answer>apple pie</answer>", "apple_pie", 0, 0, 0, 0),
    ("<answer>Apple_Pie</answer>", "apple_pie", 1, 1, 0, 0),
    ("<ANSWER>River</ANSWER>", "River", 0, 0, 0, 0),
    ("<answer></answer><answer>River</answer>", "River", 0, 0, 0, 0),
    ("<answer>River</answer><answer>Forest</answer>", "River", 1, 1, 0, 0),
    ("<think></think><answer></answer>", "River", 0, 0, 1, 0),
    ("<answer>$1<x<2$</answer>", "$(1,2)$", 1, 0, 0, 0),  # in the other order of arguments: 0
    ("<answer>$0.5$</answer>", r"$\frac{1}{2}$", 1, 0, 0, 0),
]


@pytest.mark.parametrize(("completion", "label", "published", "exact", "form", "equal"), VECTORS)
def test_vectors_of_the_released_functions(completion, label, published, exact, form, equal):
    got = {rule: pay("accuracy", completion, label, rule=rule) for rule in ("published", "exact")}
    got |= {name: pay(name, completion, label) for name in ("format", "equality")}
    assert got == {"published": published, "exact": exact, "format": form, "equality": equal}


@pytest.mark.parametrize("row", TABLE)
def test_without_numbers_both_rules_give_the_same(row):
    assert pay("accuracy", row[0], row[1], rule="published") == row[2]


def naive(completion: str, label: str) -> bool:
    """The authors' function, which parses both."""
    solution = f"<answer>{label}</answer>"
    if verify(parse(completion, parsing_timeout=None), parse(solution, parsing_timeout=None), timeout_seconds=None):
        return True
    found = re.search(r"<answer>(.*?)</answer>", completion)
    return (found.group(1) if found else completion).strip().lower() == label.strip().lower()


WORDS = st.sampled_from(
    ["BMW", "Cessna", "172", "208", "2012", "146-200", "1.5", "1,000", "3/4", "7 %", "$12$", "a", "= 9"]
)
PHRASES = st.lists(WORDS, min_size=1, max_size=5).map(" ".join)
THOUGHTS = st.sampled_from(
    ["", "<think>It is a 172.</think> ", "<think>Answer: 208, no 12!</think> ", "The answer is "]
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(thought=THOUGHTS, guess=PHRASES, label=PHRASES)
def test_published_is_the_authors_function_on_numbers_and_words(thought, guess, label):
    completion = f"{thought}<answer>{guess}</answer>"
    assert rules.math_verify(completion, label) == naive(completion, label)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(text=st.text(max_size=60), label=st.text(st.characters(exclude_characters="<>"), min_size=1, max_size=20))
def test_exact_is_paid_for_the_label_and_for_nothing_else(text, label):
    assert rules.same_text(f"<think>{text}</think> <answer> {label} </answer>", label) == (
        "<answer>" not in text and "\n" not in label
    )
    assert rules.same_text(f"<answer>{label}x</answer>", label) is False


def test_a_label_without_an_expression_leaves_the_completion_unparsed(monkeypatch):
    seen = []
    monkeypatch.setattr(rules, "expressions", lambda text: seen.append(text) or [])
    assert not rules.math_verify("<answer>$9^9$</answer>", "river")
    assert seen == ["<answer>river</answer>"]


BOMBS = {
    "power tower": "9^9^9^9",
    "power tower of Python": "9**9**9**9",
    "power tower in LaTeX": "$9^{9^{9^{9}}}$",
    "factorial": "$99999999999!!$",
    "sum": r"$\sum_{i=1}^{10^{12}} \frac{1}{i}$",
    "integral": r"$\int_0^1 \sin(x^x) e^{x^2} dx$",
    "digits": "9" * 9_000,
    "decimals": "0." + "9" * 9_000,
    "thousands": "1" + ",000" * 2_000,
    "long sum": "+".join(["1/7"] * 2_000),
    "long sum that ends badly": "+".join(["1"] * 4_000) + "x",
    "many short sums": "1+1 " * 2_000 + "x",
    "brackets": "(" * 3_000 + "1+1" + ")" * 3_000,
    "brackets in LaTeX": "$" + "(" * 3_000 + "1" + ")" * 3_000 + "$",
    "product": "$(a+b)(c+d)(e+f)(g+h)(i+j)(k+l)(m+n)(o+p)$",
    "boxes": r"\(" + r"\boxed{a} " * 900,
    "dollars": "$$ " * 3_000,
    "anchors": "answer " * 1_200,
    "exponentials": "$exp(exp(99999999))$",
    "large power by words": r"$\exp(\exp(\exp(\exp(9))))$",
    "inequality": "$xxxxxxxx<1$",
    "binomial": r"$\binom{999999999}{99999999}$",
}


def test_no_completion_keeps_the_published_rule_busy():
    """In a process of its own, with a limit that only a computation without end reaches."""
    code = (
        "import json, sys\n"
        "from stages.tasks import rules\n"
        "for name, bomb in json.load(sys.stdin).items():\n"
        "    for label in ('Cessna 172', '$(1,2)$', '$x<1$', '9^9^9^9'):\n"
        "        for form in ('<answer>{}</answer>', '<think>The answer is {} </think> <answer>DC-3</answer>'):\n"
        "            print(name, label, rules.math_verify(form.format(bomb), label), flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        input=json.dumps(BOMBS),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 8 * len(BOMBS)
    paid = [line for line in done.stdout.splitlines() if line.endswith("True")]
    assert paid == ["power tower 9^9^9^9 True"]


@pytest.mark.parametrize("bomb", ["9^9^9", "$2^{9}$", "$5!$", "9" * 10_000])
def test_an_expression_out_of_bounds_is_none(bomb):
    assert rules.expressions(f"<answer> {bomb} </answer> 172 ") == []
    assert rules.expressions("<answer>a</answer> 172 ") != []


def test_every_file_of_the_room_is_a_reward_that_pays_a_number_from_0_to_1():
    """With the parameters of params.yaml, those of length aside."""
    assert set(rewards.names()) >= {*NAMES, "length", "overlap"}
    parameters = read_params(ROOT / "params.yaml")["rewards"] | {"length": LENGTH}
    for name in rewards.names():
        reward, weight = rewards.load(name, parameters.get(name, {}))
        sample = Sample("Where?", "[0, 0, 500, 1000]", box=(0, 0, 0.5, 1))
        fitting = [task for task in (region.Task(), detection.Task()) if rewards.fits(name, task)]
        assert weight == 1
        assert fitting
        for task in fitting:
            assert 0 <= reward(Completion("<answer>river</answer>", "river", 5), sample, task) <= 1


@pytest.mark.parametrize("name", methods())
def test_a_method_of_reinforcement_has_rewards_and_a_supervised_one_a_target(name):
    method = load(name)
    assert set(method.rewards) <= set(rewards.names())
    assert bool(method.rewards) == (method.trainer == "grpo")
    assert (method.target is not None) == (method.trainer != "grpo")
    assert (method.preference is not None) == (method.trainer == "dpo")


def test_a_weight_is_part_of_the_section_of_every_reward():
    assert rewards.load("equality", {"weight": 0.25})[1] == 0.25
    assert rewards.load("length", LENGTH | {"weight": 0.5})[1] == 0.5
    for name in rewards.names():
        assert "weight" in rewards.params_of(name).model_fields


def test_length_is_logistic_and_saturates():
    def paid(tokens: int) -> float:
        return pay("length", "x", "y", tokens, steepness=2.0, midpoint=3.0, unit=4.0, correct_only=None)

    # L = 12 / 4 = 3 = L0, so R = 1 / (1 + lambda) = 1/3.
    assert paid(12) == pytest.approx(1 / 3)
    # L = 5: R = 1 / (1 + 2 exp(-2)).
    assert paid(20) == pytest.approx(1 / (1 + 2 * math.exp(-2)))
    assert paid(10**9) == pytest.approx(1)
    values = [paid(tokens) for tokens in range(60)]
    assert values == sorted(values)


@pytest.mark.parametrize("midpoint", [-1e6, 1e6])
def test_length_stays_a_share_whatever_its_constants(midpoint):
    assert 0 <= pay("length", "x", "y", 10, steepness=1.0, midpoint=midpoint, unit=1e-3, correct_only=None) <= 1


@pytest.mark.parametrize(("rule", "paid"), [("exact", 0), ("published", 0.5)])
def test_length_may_leave_wrong_answers_unpaid_by_a_rule_of_the_accuracy_reward(rule, paid):
    constants = {"steepness": 1.0, "midpoint": 3.0, "unit": 4.0, "correct_only": rule}
    assert pay("length", "<answer>forest</answer>", "river", 100, **constants) == 0
    assert pay("length", "<answer>BAE 146-300</answer>", "BAE 146-200", 12, **constants) == pytest.approx(paid)
    assert pay("length", "<answer>river</answer>", "river", 12, **constants) == pytest.approx(0.5)


THOUGHT = "There is an empty middle and one round loop, so it is zero."


def paid_for(text: str, repeated: int | None) -> float:
    """What length pays for a text each of whose words and marks is a token."""
    tokens = len(re.findall(r"\w+|[^\w\s]", text))
    return pay("length", text, "zero", tokens, **LENGTH | {"repeated": repeated})


@pytest.mark.parametrize("text", [f"{THOUGHT} ", "so ", "! ", "wait , "])
def test_as_published_length_pays_for_repetition_as_for_anything(text):
    """The weakness of P2's reward: the same words again are paid more, up to all that there is."""
    values = [paid_for(text * times, None) for times in (1, 5, 25, 125)]
    assert values == sorted(values)
    assert values[-1] > 0.99
    assert pay("length", text * 125, "zero", 30, **LENGTH) == pay("length", THOUGHT, "zero", 30, **LENGTH)


@pytest.mark.parametrize("phrase", [2, 3, 5])
@pytest.mark.parametrize("text", [f"{THOUGHT} ", "so ", "! ", "wait , ", "So SO sO "])
def test_by_our_variant_a_repetition_is_paid_no_more_than_once(phrase, text):
    """Its own words count, and those of the phrases across its seam; then nothing, however often."""
    own = len(re.findall(r"\w+|[^\w\s]", text))
    most = pay("length", "", "zero", own + phrase - 1, **LENGTH)
    values = [paid_for(text * times, phrase) for times in (1, 2, 10, 100)]
    assert all(value <= most + 1e-9 for value in values)
    assert values[2] == pytest.approx(values[3])


def test_our_variant_pays_what_is_said_once_as_the_published_reward_does():
    assert paid_for(THOUGHT, 3) == paid_for(THOUGHT, None)


def test_what_our_variant_still_pays():
    """Counting, and words at random: nothing is repeated. `correct_only` is what is left against them."""
    counting = " ".join(map(str, range(100)))
    assert paid_for(counting, 3) == paid_for(counting, None) > 0.99
    unpaid = LENGTH | {"repeated": 3, "correct_only": "exact"}
    assert pay("length", f"<think>{counting}</think> <answer>one</answer>", "zero", 100, **unpaid) == 0


@pytest.mark.parametrize(
    ("answer", "paid"), [("[0, 0, 500, 1000]", 1), ("[250, 0, 500, 1000]", 0.5), ("[500, 0, 1000, 1000]", 0), (None, 0)]
)
def test_overlap_pays_by_the_share_of_what_the_parser_found(answer, paid):
    reward, _ = rewards.load("overlap", {})
    sample = Sample("Where?", "[0, 0, 500, 1000]", box=(0.0, 0.0, 0.5, 1.0))
    assert reward(Completion("[0, 0, 500, 1000]", answer, 9), sample, region.Task()) == pytest.approx(paid)


def test_a_reward_fits_a_task_that_has_what_it_needs():
    fitting = {
        name: [task for task in tasks.names() if rewards.fits(name, tasks.load(task))] for name in rewards.names()
    }
    assert fitting.pop("overlap") == ["detection", "region"]
    assert fitting.pop("confidence") == ["detection"]
    assert all(found == tasks.names() for found in fitting.values())


@pytest.mark.parametrize("task", ["multiple_choice", "number", "region"])
@pytest.mark.parametrize("rule", ["exact", "published"])
def test_accuracy_pays_by_the_task(task, rule):
    example = {"options": ["one", "two"], "answer": "1", "box": [0, 0, 1, 1]} | (
        {"answer": "two"} if task == "multiple_choice" else {}
    )
    loaded = tasks.load(task)
    sample = loaded.sample({"question": "Q", **example}, [], None, None)
    reward, _ = rewards.load("accuracy", {"rule": rule})
    right, wrong = (f"<answer>{text}</answer>" for text in (sample.answer, "[0, 0, 0, 7]"))
    assert [reward(Completion(text, rules.tagged(text), 9), sample, loaded) for text in (right, wrong)] == [1, 0]


def test_a_reward_that_cannot_be_computed_stops_the_run():
    """And never becomes a 0: here a region's reward on a sample without a box."""
    reward, _ = rewards.load("overlap", {})
    with pytest.raises(TypeError):
        reward(Completion("", "[0, 0, 1, 1]", 9), Sample("Which?", "river"), region.Task())


@pytest.mark.parametrize("label", ["river", " river", "river ", "\triver\r"])
def test_a_label_is_stripped_and_a_completion_is_not(label):
    """As in P1's code, which strips what stands in the solution's tag."""
    assert pay("equality", "river", label) == 1
    assert pay("equality", label, label) == (label == "river")
    assert in_tags(label) == "<answer>river</answer>"
    assert load("sft").target(label) == "<answer>river</answer>"
