"""The base models that can be chosen: section `models` of `params.yaml`, one of which the key `model` names."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from stages.runtime import hub
from stages.runtime.errors import UserError
from stages.runtime.params import Section, validate_by_source


def _compile(pattern: str) -> str:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"a regular expression ({error})") from None
    return pattern


RegularExpression = Annotated[str, AfterValidator(_compile)]


class LoraTargets(Section):
    """Which modules adapters go to, as regular expressions over module names: of the language model, of the tower."""

    language: RegularExpression
    vision: RegularExpression

    @model_validator(mode="after")
    def _both(self) -> "LoraTargets":
        # With adapters in the tower they become one; `(?i)`, for instance, may only stand at the start of it.
        try:
            _compile(f"({self.language})|({self.vision})")
        except ValueError as error:
            raise ValueError(f"for (language)|(vision) together {error}") from None
        return self


class EmbeddedModelParams(Section):
    """A model of source `embedded` in section `models` of `params.yaml`."""

    source: Literal["embedded"]
    world: str = Field(default="pictures", description="what it is trained on, a file of stages/embedded/worlds")
    world_params: dict[str, Any] = Field(default_factory=dict, description="of that world; its file says which")
    text_layers: int = Field(default=4, ge=1, description="of the language model")
    seed: int = Field(ge=0, description="of the first weights, the drawn images and the instructions")
    images_per_class: int = Field(ge=1, description="drawn images of each class, before colour and noise")
    vision_steps: int = Field(ge=0)
    vision_batch_size: int = Field(ge=2)
    vision_learning_rate: float = Field(gt=0)
    language_steps: int = Field(ge=0)
    language_batch_size: int = Field(ge=2)
    language_learning_rate: float = Field(gt=0)
    think_flaws: float = Field(ge=0, le=1, description="share of tagged answers that break their format")
    direct_flaws: float = Field(ge=0, le=1, description="share of direct answers that are not a bare name")
    lora: LoraTargets | None = None


class HubModelParams(Section):
    """A model of the hub: `repository` at `revision` (a commit hash), or `path`, a folder of the same layout.

    `dtype` is the type of numbers that it is published in, tested in and saved in; full fine-tuning keeps float32
    weights while it runs. What an image is resized to is bounded by `minimum_pixels` and `maximum_pixels` where the
    model's family counts pixels, and by `maximum_tiles` where it cuts an image into tiles (null: as published).
    """

    source: Literal["hub"]
    repository: str | None = None
    revision: str | None = None
    path: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"]
    attention: Literal["sdpa", "eager", "flash_attention_2"]
    minimum_pixels: int | None = Field(gt=0)
    maximum_pixels: int | None = Field(gt=0)
    maximum_tiles: int | None = Field(default=None, gt=0, description="of an image, that of the whole one included")
    lora: LoraTargets | None = None

    def check(self, key: str) -> None:
        """One place, in a repository one commit.

        Raises:
            UserError: keys do not fit together.
        """
        if (self.path is None) == (self.repository is None):
            found = "neither is" if self.path is None else "both are"
            raise UserError(f"{key}: of path and repository {found} set; valid: one of them")
        hub.check_revision(key, self.repository, self.revision)
        if None not in (self.minimum_pixels, self.maximum_pixels) and self.minimum_pixels > self.maximum_pixels:
            raise UserError(f"{key}.minimum_pixels: {self.minimum_pixels} is invalid; valid: up to maximum_pixels")


Model = EmbeddedModelParams | HubModelParams

SOURCES = {"embedded": EmbeddedModelParams, "hub": HubModelParams}


def parse(key: str, section: Any) -> Model:
    """Check a model's section of `params.yaml`, found under `key`; its `source` says which other keys are valid.

    Raises:
        UserError: names the first offending key, its value, and what is valid.
    """
    params: Model = validate_by_source(key, section, SOURCES)
    if isinstance(params, HubModelParams):
        params.check(key)
    return params
