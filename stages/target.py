"""Stage `target`: a dataset for testing alone: its source's test samples, all of them, and the question of each."""

from stages.runtime import environment
from stages.runtime.files import write_file
from stages.runtime.params import read_section
from stages.sources.store import store
from stages.tasks import draws
from stages.tasks.questions import Downloaded


def target(dataset: str) -> None:
    """Write `data/download/<dataset>`, its record, and `data/target/<dataset>.parquet`, a table as of `partition`.

    It is one for all seeds: nothing is drawn but the options of a question, where a task draws them.
    """
    store(dataset)
    found = Downloaded.read(dataset)
    rows = found.table.index[found.table["split"] == "test"].tolist()
    options = read_section("split.options", draws.OptionRule)
    samples = found.samples(rows, options, draws.generator("options", dataset, "target"))
    with write_file(f"data/target/{dataset}.parquet") as unfinished:
        samples.assign(part="all").to_parquet(unfinished, index=False)
    environment.record(f"target@{dataset}")
