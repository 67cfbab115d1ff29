"""What `dvc repro` will cost on a named GPU: steps, tokens, FLOPs, memory, hours, disk. Reads, and writes nothing.

    python -m tools.plan --gpu a100_80

No stage: nothing imports it, and nothing has to be downloaded first. What is known of a dataset comes from its folder
under `data/download`, where it is there, else from the generator of an embedded one, the folder of images that
`params.yaml` names, or the papers' statistics; then names and texts are taken to have a length. The formulas stand in
`tools.planning.costs`, and what they rest on is printed under the tables.
"""

from pathlib import Path
from typing import Annotated

import typer

from stages.methods import method as methods
from stages.runtime.errors import UserError, reported
from stages.runtime.params import read_params
from tools.planning.costs import GPUS, HERE, Speed
from tools.planning.datasets import Guesses
from tools.planning.planner import Assumptions, planner, stages_of_dag
from tools.planning.spread import table
from tools.planning.tables import report

CARDS = (*GPUS, HERE)


def _positive(option: str, value: float, most: float | None = None) -> float:
    if value > 0 and (most is None or value <= most):
        return value
    valid = "above 0" if most is None else f"above 0, up to {most:g}"
    raise UserError(f"--{option}: {value:g} is invalid; valid: {valid}")


def _completions(expect: list[str]) -> dict[str, int]:
    stated = {}
    for item in expect:
        name, _, tokens = item.partition("=")
        if name not in methods.names() or not tokens.isdecimal() or int(tokens) == 0:
            valid = ", ".join(methods.names())
            raise UserError(f"--expect: {item!r} is invalid; valid: method=tokens, method one of {valid}")
        stated[name] = int(tokens)
    return stated


def plan(
    gpu: Annotated[str, typer.Option(help=f"one of {', '.join(CARDS)}: this processor, measured")] = "h200",
    utilisation: Annotated[float, typer.Option(help="share of the peak FLOP/s that training reaches")] = 0.4,
    bandwidth_share: Annotated[float, typer.Option(help="share of the bandwidth that generation reaches")] = 0.5,
    launch_milliseconds: Annotated[float, typer.Option(help="least time of a layer's forward pass")] = 1.0,
    spread: Annotated[float, typer.Option(help="longest completion of a batch over the mean")] = 2.0,
    reasoning_tokens: Annotated[int, typer.Option(help="of a thought or a reason")] = 100,
    expect: Annotated[list[str] | None, typer.Option(help="method=tokens, mean length of its completions")] = None,
    name_characters: Annotated[int, typer.Option(help="of a class name, where a dataset is not there yet")] = 14,
    question_characters: Annotated[int, typer.Option(help="of a question, likewise")] = 150,
    samples: Annotated[int, typer.Option(help="of a split whose size nobody says")] = 1000,
    classes: Annotated[int, typer.Option(min=2, help="of a dataset of your own that is not there yet")] = 10,
    pixels: Annotated[int, typer.Option(help="of an image that keeps its size, likewise")] = 640 * 480,
    characters_per_token: Annotated[float, typer.Option(help="of text, for models of the hub")] = 4.0,
    spread_over: Annotated[list[int] | None, typer.Option(min=1, help="hours on so many GPUs (several times)")] = None,
) -> None:
    """Print what `dvc repro` costs with the `params.yaml` that is there."""
    if gpu not in CARDS:
        raise UserError(f"--gpu: {gpu!r} is invalid; valid: {', '.join(CARDS)}")
    if gpu == HERE:
        from tools.planning.here import measure  # only here: it needs torch

    speed = Speed(
        measure() if gpu == HERE else GPUS[gpu],
        _positive("utilisation", utilisation, 1),
        _positive("bandwidth-share", bandwidth_share, 1),
        _positive("launch-milliseconds", launch_milliseconds) / 1000,
        spread,
    )
    if spread < 1:
        raise UserError(f"--spread: {spread:g} is invalid; valid: 1 and above")
    assumptions = Assumptions(
        int(_positive("reasoning-tokens", reasoning_tokens)),
        _completions(expect or []),
        _positive("characters-per-token", characters_per_token),
        Guesses(
            int(_positive("name-characters", name_characters)),
            int(_positive("question-characters", question_characters)),
            int(_positive("samples", samples)),
            classes,
            int(_positive("pixels", pixels)),
        ),
    )
    params = read_params()
    planned = planner(params, assumptions, speed)
    print(report(planned, gpu, stages_of_dag(Path("dvc.yaml"), params)))
    if spread_over:
        print(f"\n## Over several GPUs\n\n{table(planned, spread_over)}")


if __name__ == "__main__":
    # Not by `stages.runtime.errors.main`: a plan may be made while stages run, and takes no lock.
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(plan)
    with reported():
        app()
