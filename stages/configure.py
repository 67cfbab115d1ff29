"""Stage `configure`: check all of `params.yaml` before any work starts, and write down what each stage depends on.

`recipes/` has, in JSON, what DVC cannot select from `params.yaml` and `stages/` by itself:
- `train/<method>-<dataset>.json`: trainer, rewards, task and hyperparameters, all defaults and overrides resolved, and
  the md5 of the code that runs with them. So a change of `reward`, of a shared hyperparameter or of a trainer's code
  retrains the cells that it touches and no other.
- `base_model.json`: the section of the base model that is chosen.
- `tasks/<dataset>.json`: the task of a dataset, and the md5 of its code.
- `methods/<method>.json`: the md5 of the code of a method.
- `prompts/<prompt>.json`: the md5 of the code of a further prompt, or how completions begin with it.
- `code/<stage>.json`: the md5 of the code of each other stage, without methods and tasks, which it loads by name.
"""

from stages.recipes.params import check
from stages.recipes.recipe import files
from stages.runtime import environment
from stages.runtime.files import write_directory, write_json
from stages.runtime.params import read_params


def configure() -> None:
    """Read `params.yaml`, and write `recipes/`; see above."""
    content = files(check(read_params()))
    with write_directory("recipes") as folder:
        for path, value in content.items():
            write_json(folder / path, value)
    environment.record("configure")
