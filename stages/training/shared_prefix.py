"""GRPO at nearly the price of supervised fine-tuning: TRL's `GRPOTrainer`, with each prompt encoded once per group.

The G completions of a group share one prompt: an image and a long list of options. Stock TRL encodes it G times in
each of three passes: sampling, the frozen reference, training. Here it is encoded once, and the G completions continue
from its keys and values. They are laid end to end in *one* row, under a mask that hides them from each other:

    stock, G = 3                     here
    [prompt][completion 1]           [prompt] -> keys, values, last hidden state
    [prompt][completion 2]                [completion 1][completion 2][completion 3]
    [prompt][completion 3]

Gradients of all completions meet in the prompt's keys and values, which are never repeated in memory: the same
mathematics (Prefix Grouper, arXiv 2506.05433), in another order of sums. `docs/shared-prefix-grpo.md` has a picture.

Where it differs from stock TRL 1.16:

- Sampling, reference and training continue from the shared prompt. The same random numbers are drawn in the same
  order, so that the same seed samples the same completions.
- A generation batch is shuffled by whole passes, so that a group stays in one, beside those that the reference scores
  it with: the last bits of a score depend on its neighbours.
- Where one pass trains on what was just sampled, that pass's prompt encoding (activations kept) also serves the
  sampling: the prompt is encoded once per step.
- Prompts are tokenised and images preprocessed once per run, and the frozen reference's keys and values of a prompt
  are kept for the run, each up to a limit in bytes. Through TRL's batches travel the numbers of samples, not pixels.
- What cannot be shared is said in one line, and the trainer is then the stock one: see `why_not_shared`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from accelerate.logging import get_logger
from accelerate.utils import is_peft_model
from torch import Tensor
from transformers import DynamicCache, LogitsProcessorList
from transformers.generation import GenerationMode
from trl import GRPOTrainer
from trl.data_utils import prepare_multimodal_messages
from trl.extras.profiling import profiling_decorator
from trl.kernels import ChunkedLogProbFunction
from trl.models.utils import _ForwardRedirection, unwrap_model_for_generation
from trl.trainer.utils import split_pixel_values_by_grid, split_tensor_dict, unsplit_pixel_values_by_grid

from stages.modelling import private
from stages.modelling.families import family as families
from stages.training.common import splits_weights

logger = get_logger(__name__)

SAMPLE_LIMIT = 2 * 2**30
"""Bytes of tokens and preprocessed pixels kept for the run, in main memory."""

REFERENCE_LIMIT = 2**30
"""Bytes of the frozen reference's keys and values kept for the run, on the device."""

OVERRIDDEN = (
    "_generate_and_score_completions",
    "_tokenize_prompts",
    "_prepare_inputs",
    "_generate_single_turn",
    "_get_per_token_logps_and_entropies",
)
"""Methods of `GRPOTrainer` in whose places ours stand; see `stages.training.grpo` for versions without them."""

OF_TRAINER = (
    "_buffered_inputs",
    "_step",
    "_tokenizer",
    "environment_factories",
    "eos_token_ids",
    "ref_model",
    "rollout_func",
    "tools",
)
OF_ARGUMENTS = (
    "activation_checkpointing",
    "cast_lm_head_to_fp32",
    "pad_to_multiple_of",
    "steps_per_generation",
    "sync_ref_model",
    "torch_compile",
    "use_transformers_continuous_batching",
    "use_vllm",
)
OF_MODEL = (
    "_get_logits_processor",
    "_prepare_generation_config",
    "_prepare_special_tokens",
    "get_decoder",
    "get_output_embeddings",
    "model",
)
"""What is read of a trainer, of its arguments and of a model that samples, and may have another name tomorrow."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A prompt as the model reads it, without padding. P: its tokens.

    Attributes:
        key: unique to the sample.
        ids: (P,) int64.
        positions: (P,) int64; or (3, P), temporal, height and width position of each token (mRoPE).
        next_position: position of the first completion token, on all axes.
        images: what the model reads of all its images, by name: pixels, grids of patches, masks, as its family has it.
    """

    key: bytes
    ids: Tensor
    positions: Tensor
    next_position: int
    images: dict[str, Tensor]

    @property
    def bytes(self) -> int:
        """Memory taken, in bytes."""
        return sum(tensor.nbytes for tensor in (self.ids, self.positions, *self.images.values()))


@dataclass(frozen=True, eq=False)
class Encoding:
    """Encoded prompts. B: prompts, P: longest prompt, padded on the left, H: width, K: key heads, D: width of a head.

    Attributes:
        layers: keys and values of each layer, each (B, K, P, D).
        last: (B, H), the last token's hidden state, from which the first completion token is predicted.
        mask: (B, P) bool, False at padding.
        next_positions: (B,) int64.
    """

    layers: list[tuple[Tensor, Tensor]]
    last: Tensor
    mask: Tensor
    next_positions: Tensor

    def split(self) -> list[Encoding]:
        """One encoding per prompt, without padding, in memory of its own."""
        return [
            Encoding(
                [(keys[[i]][:, :, mask], values[[i]][:, :, mask]) for keys, values in self.layers],
                self.last[[i]].clone(),
                mask[mask][None],
                self.next_positions[[i]].clone(),
            )
            for i, mask in enumerate(self.mask)
        ]

    @classmethod
    def join(cls, parts: list[Encoding]) -> Encoding:
        """Stack encodings, padded on the left to the longest."""
        return cls(
            [
                (_pad_left([part.layers[i][0] for part in parts], 2), _pad_left([p.layers[i][1] for p in parts], 2))
                for i in range(len(parts[0].layers))
            ],
            torch.cat([part.last for part in parts]),
            _pad_left([part.mask for part in parts], 1),
            torch.cat([part.next_positions for part in parts]),
        )

    def tensors(self) -> dict[str, Tensor]:
        """All of it by name, for a file."""
        layers = {f"{kind}.{i}": t for i, pair in enumerate(self.layers) for kind, t in zip("kv", pair, strict=True)}
        others = {"last": self.last, "mask": self.mask, "next_positions": self.next_positions}
        return {name: tensor.contiguous() for name, tensor in (layers | others).items()}

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> Encoding:
        """What `tensors` took apart."""
        layers = [(tensors[f"k.{i}"], tensors[f"v.{i}"]) for i in range(sum(name[0] == "k" for name in tensors))]
        return cls(layers, tensors["last"], tensors["mask"], tensors["next_positions"])

    @property
    def bytes(self) -> int:
        """Memory taken, in bytes."""
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers) + self.last.nbytes


@dataclass(frozen=True, eq=False)
class Packed:
    """Completions that continue from B encoded prompts, laid end to end per prompt. T: the longest such row.

    A completion of n tokens has n - 1 inputs, since nothing follows its last; its first is predicted from the prompt.

    Attributes:
        ids: (B, T) int64 inputs.
        positions: (B, T) int64, of text, which is at one place on all axes.
        mask: (B, 1, T, P + T) bool, what each input sees: its prompt, and its own completion up to itself.
        source: (N,) int64, per scored token where its prediction stands in [prompts' last states, inputs' states].
        targets: (N,) int64, the scored tokens.
        place: (N,) int64, where they stood in the flattened (R, C) batch of completions.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    source: Tensor
    targets: Tensor
    place: Tensor


class Prefix:
    """The cache that a model sees when it continues from prompts: new keys and values stand behind theirs.

    It stands for a `transformers` cache where positions and mask are given, when nothing but `update` is called.
    """

    def __init__(self, layers: list[tuple[Tensor, Tensor]], grows: bool):
        self.layers = list(layers)
        self.grows = grows

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append (B, K, T, D) to the layer's (B, K, P, D), for this call only unless the prefix grows."""
        before_keys, before_values = self.layers[layer]
        joined = (torch.cat([before_keys, keys], dim=2), torch.cat([before_values, values], dim=2))
        if self.grows:
            self.layers[layer] = joined
        return joined


class Store(dict):
    """A dictionary that takes new items up to a limit in bytes and drops none: those inside always hit."""

    def __init__(self, limit: int):
        super().__init__()
        self.room = limit

    def offer(self, key: Any, item: Sample | Encoding) -> None:
        """Take `item` if it fits."""
        if key not in self and item.bytes <= self.room:
            self.room -= item.bytes
            self[key] = item


def encode(model: Any, samples: list[Sample], device: torch.device) -> Encoding:
    """Run B prompts with their images through `model`, an image-text-to-text model of a known family, each once."""
    axes = families.load(model.config.model_type).images
    mask = _pad_left([torch.ones(1, len(sample.ids), dtype=torch.bool) for sample in samples], 1)
    cache = DynamicCache(config=model.config)
    states = model.model(
        input_ids=_pad_left([sample.ids[None] for sample in samples], 1).to(device),
        attention_mask=None if mask.all() else mask.to(device),
        position_ids=_pad_left([sample.positions[..., None, :] for sample in samples], -1, dim=-2).to(device),
        **{
            name: torch.cat([sample.images[name] for sample in samples], dim=axes[name]).to(device)
            for name in samples[0].images
        },
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return Encoding(
        [(layer.keys, layer.values) for layer in cache.layers],
        states[:, -1],
        mask.to(device),
        torch.tensor([sample.next_position for sample in samples], device=device),
    )


def pack(completions: Tensor, mask: Tensor, prompt_of: list[int], encoding: Encoding) -> Packed:
    """Lay the completions of each prompt end to end, prompt by prompt in whatever order their rows come.

    The last bits of a score depend on where it stands among the others: laid out as they come, scores of the reference
    and of a model that is still the same would differ, and the KL term would move weights that no reward moves.

    Args:
        completions: (R, C) int64, padded on the right.
        mask: (R, C), 1 at tokens to score.
        prompt_of: for each of the R rows the number of its prompt in `encoding`; any number of rows per prompt.
        encoding: of B prompts.
    """
    device, width = completions.device, completions.shape[1]
    lengths = mask.sum(1).tolist()
    used = [0] * len(encoding.last)
    starts = []
    for prompt, length in zip(prompt_of, lengths, strict=True):
        starts.append(used[prompt])
        used[prompt] += max(length - 1, 0)
    row_width = max(used)
    owner = np.full((len(used), row_width), -1)
    step = np.zeros((len(used), row_width), dtype=np.int64)
    source, place = [], []
    for row in sorted(range(len(prompt_of)), key=prompt_of.__getitem__):
        prompt, length, start = prompt_of[row], lengths[row], starts[row]
        inputs = max(length - 1, 0)
        owner[prompt, start : start + inputs] = row
        step[prompt, start : start + inputs] = np.arange(inputs)
        first_input = len(used) + prompt * row_width + start
        source += [prompt, *range(first_input, first_input + inputs)][:length]
        place += range(row * width, row * width + length)
    owner, step = torch.from_numpy(owner).to(device), torch.from_numpy(step).to(device)
    place = torch.tensor(place, dtype=torch.long, device=device)
    # Padding belongs to no completion: it sees the prompt alone, and nothing sees it.
    own = (owner[:, :, None] == owner[:, None, :]) & (owner >= 0)[:, :, None]
    own &= torch.ones(row_width, row_width, dtype=torch.bool, device=device).tril()
    return Packed(
        ids=completions.flatten()[owner.clamp(min=0) * width + step],
        positions=encoding.next_positions[:, None] + step,
        mask=torch.cat([encoding.mask[:, None].expand(-1, row_width, -1), own], dim=2)[:, None],
        source=torch.tensor(source, dtype=torch.long, device=device),
        targets=completions.flatten()[place],
        place=place,
    )


def proceed(model: Any, cache: Prefix, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
    """Hidden states (B, T, H) of `ids` (B, T) behind the prompts of `cache`; the arguments as in `Packed`."""
    return model.get_decoder()(
        input_ids=ids,
        position_ids=positions,
        attention_mask=mask,
        past_key_values=cache,
        use_cache=False,
    ).last_hidden_state


def score(model: Any, encoding: Encoding, packed: Packed, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy (N,) of each packed token, in float32, by TRL's own kernel."""
    states = encoding.last
    if packed.ids.numel():
        inputs = proceed(model, Prefix(encoding.layers, grows=False), packed.ids, packed.positions, packed.mask)
        states = torch.cat([states, inputs.flatten(0, 1)])
    states = states.index_select(0, packed.source)
    head = model.get_output_embeddings()
    vocabulary_chunk = min(len(head.weight), 32768)
    log_probabilities, entropies, *_ = ChunkedLogProbFunction.apply(
        states, head.weight, head.bias, packed.targets, temperature, vocabulary_chunk, None, 1.0, ("entropy",)
    )
    return log_probabilities, entropies


@torch.no_grad()
def sample(
    model: Any,
    encoding: Encoding,
    prompts: Tensor,
    prompt_of: list[int],
    choose: LogitsProcessorList,
    sampled: bool,
    length: int,
    pad: int,
    ends: list[int],
) -> Tensor:
    """Continue R rows from B encoded prompts, drawing what `generate` would draw from the global generator.

    Args:
        model: an image-text-to-text model.
        encoding: of B prompts.
        prompts: (R, P) int64, each row's prompt, padded on the left (read by processors such as a repetition penalty).
        prompt_of: for each row the number of its prompt.
        choose: processors of the logits, the temperature among them.
        sampled: whether to draw; else the likeliest token is taken.
        length: most tokens per completion.
        pad: token behind a completion's end.
        ends: tokens that end a completion.

    Returns:
        (R, at most `length`) int64, padded on the right.
    """
    device = encoding.last.device
    count = len(encoding.last)
    slots = [prompt_of[:row].count(prompt) for row, prompt in enumerate(prompt_of)]
    width = max(slots) + 1
    flat = torch.tensor([prompt * width + slot for prompt, slot in zip(prompt_of, slots, strict=True)], device=device)
    ends = torch.tensor(ends, device=device)
    cache = Prefix([(keys.detach(), values.detach()) for keys, values in encoding.layers], grows=True)
    seen = encoding.mask[:, None, None].expand(-1, 1, width, -1)
    itself = torch.eye(width, dtype=torch.bool, device=device).expand(count, 1, -1, -1)
    rows = prompts
    finished = torch.zeros(len(prompt_of), dtype=torch.bool, device=device)
    head = model.get_output_embeddings()
    logits = head(encoding.last.detach())[torch.tensor(prompt_of, device=device)]
    for step in range(length):
        scores = choose(rows, logits.to(copy=True, dtype=torch.float32))
        if sampled:
            tokens = torch.multinomial(scores.softmax(dim=-1), num_samples=1).squeeze(1)
        else:
            tokens = scores.argmax(dim=-1)
        tokens = tokens.masked_fill(finished, pad)
        rows = torch.cat([rows, tokens[:, None]], dim=1)
        finished = finished | torch.isin(tokens, ends)
        if step + 1 == length or finished.all():
            break
        seen = torch.cat([seen, itself], dim=3)
        states = proceed(
            model,
            cache,
            tokens.new_full((count * width,), pad).index_copy(0, flat, tokens).view(count, width),
            (encoding.next_positions + step)[:, None].expand(count, width),
            seen,
        )
        logits = head(states.flatten(0, 1)[flat])
    return rows[:, prompts.shape[1] :]


class SharedPrefixGRPOTrainer(GRPOTrainer):
    """`GRPOTrainer` with each prompt encoded once per group; the module's docstring says where it differs.

    Attributes:
        why_stock: what cannot be shared, so that this trainer is the stock one; None where prompts are shared.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.why_stock = why_not_shared(self)
        if self.why_stock:
            logger.warning(f"Prompts are not shared, training continues with stock GRPOTrainer: {self.why_stock}")
        elif self.args.per_device_train_batch_size % self.num_generations:
            logger.warning(
                f"A pass of {self.args.per_device_train_batch_size} completions does not hold whole groups of "
                f"{self.num_generations}: a prompt is encoded in each pass that has one of its completions"
            )
        self._samples = Store(SAMPLE_LIMIT)
        self._reference_encodings = Store(REFERENCE_LIMIT)
        # The distinct samples of the last generated batch, by mode: rows of a batch carry their numbers in these lists.
        self._batch: dict[str, list[Sample] | None] = {"train": None, "eval": None}
        self._row_numbers: list[int] = []
        self._kept: Encoding | None = None
        self._redirect = _ForwardRedirection()
        # A layer of the adapters, which shows whether they are switched off for the reference.
        self._tuner = None
        if is_peft_model(self.model):
            from peft.tuners.tuners_utils import BaseTunerLayer

            tuners = (module for module in self.model.modules() if isinstance(module, BaseTunerLayer))
            self._tuner = next(tuners, None)

    @property
    def _mode(self) -> str:
        return "train" if self.model.training else "eval"

    # Samples in place of pixels ------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._kept = self._batch[self._mode] = None
        if self.why_stock:
            return super()._generate_and_score_completions(inputs)
        if not all(row.get("images") for row in inputs):
            logger.warning("Prompts of a batch are not shared, since a row has no image", main_process_only=True)
            return super()._generate_and_score_completions(inputs)
        self._batch[self._mode], self._row_numbers = self._distinct(inputs)
        with self._numbers_for_pixels():
            return super()._generate_and_score_completions(inputs)

    def _distinct(self, inputs: list[dict[str, Any]]) -> tuple[list[Sample], list[int]]:
        """The batch's distinct samples, and for each row the number of its own."""
        samples: list[Sample] = []
        numbers: dict[bytes, int] = {}
        rows = []
        for row in inputs:
            key = blake2b(repr(row["prompt"]).encode(), digest_size=16)
            for image in row["images"]:
                key.update(f"{image.mode} {image.size}".encode())
                key.update(image.tobytes())
            if (key := key.digest()) not in numbers:
                numbers[key] = len(samples)
                samples.append(self._samples.get(key) or self._prepare_sample(key, row["prompt"], row["images"]))
            rows.append(numbers[key])
        return samples, rows

    def _prepare_sample(self, key: bytes, prompt: list[dict[str, Any]], images: list[Any]) -> Sample:
        """Tokenise and preprocess as stock TRL does, and compute the positions as the model does."""
        (ids,), _, fields = super()._tokenize_prompts([prepare_multimodal_messages(prompt, images=images)])
        ids = torch.tensor(ids)
        model = self._base(self.model)
        names = families.load(model.config.model_type).images
        read = {name: torch.as_tensor(np.array(fields[name])) for name in names if name in fields}
        positions = torch.arange(len(ids))
        if hasattr(model.model, "get_rope_index"):
            types = torch.as_tensor(np.array(fields["mm_token_type_ids"]))
            grids = {name: value for name, value in read.items() if name.endswith("_grid_thw")}
            positions = model.model.get_rope_index(ids[None], mm_token_type_ids=types, **grids)[0][:, 0]
        prepared = Sample(key, ids, positions, int(positions.max()) + 1, read)
        self._samples.offer(key, prepared)
        return prepared

    @contextmanager
    def _numbers_for_pixels(self) -> Iterator[None]:
        """While TRL prepares a batch, its processor returns the numbers of the rows' samples in place of pixels."""
        processor = self.processing_class
        self.processing_class = _Numbers(processor, self._row_numbers)
        try:
            yield
        finally:
            self.processing_class = processor

    def _tokenize_prompts(self, prompts: list) -> tuple[list[list[int]], list | None, dict]:
        samples = self._batch[self._mode]
        if samples is None:
            return super()._tokenize_prompts(prompts)
        images = [
            [part["image"] for message in prompt for part in message["content"] if part["type"] == "image"]
            for prompt in prompts
        ]
        tokens = [sample.ids.tolist() for sample in samples]
        return [tokens[number] for number in self._row_numbers], images, {}

    # Passes --------------------------------------------------------------------------------------------------------

    @profiling_decorator
    def _prepare_inputs(self, generation_batch: dict[str, Any]) -> dict[str, Any]:
        """As stock, but shuffled by whole passes (with the same random draw), where a pass holds whole groups."""
        whole_groups = self.args.per_device_train_batch_size % self.num_generations == 0
        if self.why_stock or self._mode == "eval" or not whole_groups:
            return super()._prepare_inputs(generation_batch)
        if self._step % (self.args.steps_per_generation * self.num_iterations) == 0 or self._buffered_inputs is None:
            batch = split_pixel_values_by_grid(self._generate_and_score_completions(generation_batch))
            rows = torch.randperm(len(batch["prompt_ids"]))
            size = len(rows) // self.args.steps_per_generation
            rows = (rows[rows % size == 0][:, None] + torch.arange(size)).flatten()
            batch = {name: _take(value, rows) for name, value in batch.items()}
            parts = split_tensor_dict(batch, self.args.steps_per_generation)
            self._buffered_inputs = [unsplit_pixel_values_by_grid(part) for part in parts]
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    @profiling_decorator
    def _generate_single_turn(
        self, prompt_ids: list, images: list, multimodal_fields: dict, num_generations: int, has_tool_images=False
    ) -> tuple[list[list[int]], None]:
        samples = self._batch[self._mode]
        if samples is None:
            return super()._generate_single_turn(
                prompt_ids, images, multimodal_fields, num_generations, has_tool_images
            )
        device = self.accelerator.device
        # Weights stand still until the next optimiser step, so the pass that follows can continue from this encoding.
        keep = self._mode == "train" and self.args.steps_per_generation == 1
        with (
            unwrap_model_for_generation(
                self.model_wrapped, self.accelerator, generation_kwargs=self.generation_kwargs
            ) as model,
            self.accelerator.autocast(),
        ):
            model = self._base(model)
            with torch.set_grad_enabled(keep):
                encoding = encode(model, samples, device)
            self._kept = encoding if keep else None
            prompts = _pad_left([sample.ids[None] for sample in samples], 1, self._tokenizer.pad_token_id)
            prompts = prompts.to(device)[self._row_numbers]
            config, _ = model._prepare_generation_config(self.generation_config)
            model._prepare_special_tokens(config, device=device)
            choose = model._get_logits_processor(
                config,
                input_ids_seq_length=prompts.shape[1],
                device=device,
                model_kwargs={"attention_mask": encoding.mask[self._row_numbers]},
            )
            completions = sample(
                model,
                encoding,
                prompts,
                self._row_numbers,
                choose,
                sampled=config.do_sample,
                length=config.max_new_tokens,
                pad=self._tokenizer.pad_token_id,
                ends=self.eos_token_ids,
            )
        ends = torch.isin(completions, torch.tensor(self.eos_token_ids, device=device)).tolist()
        return [
            row[: end.index(True) + 1 if True in end else None]
            for row, end in zip(completions.tolist(), ends, strict=True)
        ], None

    @profiling_decorator
    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        pixel_values: Tensor | None = None,
        **fields: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """As stock: (R, C) log-probabilities and entropies, 0 at padding. `pixel_values`: the rows' sample numbers."""
        if self._batch[self._mode] is None:
            return super()._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size,
                compute_entropy,
                compute_aux_loss,
                pixel_values,
                **fields,
            )
        parts = [
            self._score(model, numbers.flatten().tolist(), ids[:, -logits_to_keep:], mask[:, -logits_to_keep:])
            for numbers, ids, mask in zip(
                *(part.split(batch_size or len(input_ids)) for part in (pixel_values, input_ids, attention_mask)),
                strict=True,
            )
        ]
        log_probabilities, entropies = (torch.cat(part) for part in zip(*parts, strict=True))
        return log_probabilities, entropies if compute_entropy else None, None

    def _score(self, model: Any, numbers: list[int], completions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies, each (R, C), of completions (R, C) under their samples' prompts."""
        inside = self.accelerator.unwrap_model(model)
        base = self._base(inside)
        distinct = sorted(set(numbers))
        samples = [self._batch[self._mode][number] for number in distinct]
        prompt_of = [distinct.index(number) for number in numbers]

        def run(completions: Tensor) -> tuple[Tensor, Tensor]:
            if self._is_reference(model):
                encoding = self._encode_reference(base, samples)
            elif self._kept is not None and len(samples) == len(self._kept.last):
                encoding = self._kept
                if torch.is_grad_enabled():  # its activations serve one backward pass
                    self._kept = None
            else:
                encoding = encode(base, samples, completions.device)
            packed = pack(completions, mask, prompt_of, encoding)
            values = score(base, encoding, packed, self.temperature)
            return tuple(
                value.new_zeros(completions.numel()).index_copy(0, packed.place, value).view(completions.shape)
                for value in values
            )

        # Through the model's own call, so that its wrapper (DDP) sees a forward pass.
        with self.accelerator.autocast():
            return self._redirect(model, inside, run, completions)

    def _encode_reference(self, model: Any, samples: list[Sample]) -> Encoding:
        """The frozen reference's encoding of the samples, from the store where it is there."""
        if self.args.sync_ref_model:
            return encode(model, samples, self.accelerator.device)
        known = self._reference_encodings
        found = {sample.key: known[sample.key] for sample in samples if sample.key in known}
        missing = [sample for sample in samples if sample.key not in found]
        if missing:
            for new, encoding in zip(missing, encode(model, missing, self.accelerator.device).split(), strict=True):
                found[new.key] = encoding
                known.offer(new.key, encoding)
        return Encoding.join([found[sample.key] for sample in samples])

    def reference_tensors(self) -> dict[str, Tensor]:
        """The stored encodings of the reference, for `keep_reference` of a process that resumes from here.

        To encode them again would not do: beside other prompts, the last bits of an encoding are others.
        """
        return {
            f"{key.hex()} {name}": tensor
            for key, encoding in self._reference_encodings.items()
            for name, tensor in encoding.tensors().items()
        }

    def keep_reference(self, tensors: dict[str, Tensor]) -> None:
        """Store encodings as `reference_tensors` gives them."""
        encodings: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            key, _, part = name.partition(" ")
            encodings.setdefault(key, {})[part] = tensor
        for key, parts in encodings.items():
            self._reference_encodings.offer(bytes.fromhex(key), Encoding.of(parts))

    def _is_reference(self, model: Any) -> bool:
        if self._tuner is None:
            return model is self.ref_model
        return self._tuner.disable_adapters or "ref" in self._tuner.active_adapters

    @staticmethod
    def _base(model: Any) -> Any:
        """The model inside adapters."""
        return model.get_base_model() if hasattr(model, "get_base_model") else model


class _Numbers:
    """Stands for the processor while TRL prepares a batch, so that no image is preprocessed again."""

    def __init__(self, processor: Any, numbers: list[int]):
        self._processor = processor
        self._numbers = torch.tensor(numbers)[:, None]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def apply_chat_template(self, *_: Any, **__: Any) -> str:
        return ""

    def __call__(self, *_: Any, **__: Any) -> dict[str, Tensor]:
        return {"pixel_values": self._numbers}


def why_not_shared(trainer: GRPOTrainer) -> str | None:
    """What in the trainer's configuration cannot be shared, in words; None if all can."""
    args, model = trainer.args, trainer.model.get_base_model() if is_peft_model(trainer.model) else trainer.model
    for owner, wanted in ((args, OF_ARGUMENTS), (trainer, OF_TRAINER), (model, OF_MODEL)):
        if missing := private.lacks(owner, *wanted):
            return missing
    config, text = getattr(trainer, "generation_config", None), model.config.get_text_config()
    columns = getattr(trainer.train_dataset, "column_names", None) or []
    dropout = max((m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)), default=0)
    checks = {
        "use_vllm samples elsewhere": args.use_vllm,
        "use_transformers_continuous_batching samples elsewhere": args.use_transformers_continuous_batching,
        "tools, environments and rollout_func make prompts of their own": trainer.tools
        or trainer.environment_factories is not None
        or trainer.rollout_func is not None,
        f"model type {model.config.model_type}; known: {', '.join(families.names())}": families.load(
            model.config.model_type
        )
        is None,
        "attn_implementation must be sdpa, which takes a mask of any shape": model.config._attn_implementation
        != "sdpa",
        "sliding window attention": getattr(text, "use_sliding_window", False)
        or {"full_attention", *(getattr(text, "layer_types", None) or ())} != {"full_attention"},
        "a mixture of experts has a loss of its own": getattr(trainer, "aux_loss_enabled", False),
        "the dataset has no column images": "images" not in columns,
        "gradient_checkpointing drops the cache that completions continue from": args.activation_checkpointing
        or model.is_activation_checkpointing,
        "dropout would draw one mask for a whole group": dropout > 0
        or max(getattr(each, "attention_dropout", 0) for each in (text, model.config.vision_config)) > 0,
        "adapters other than LoRA": is_peft_model(trainer.model)
        and any(
            adapter.peft_type != "LORA" or getattr(adapter, "alora_invocation_tokens", None)
            for adapter in trainer.model.peft_config.values()
        ),
        "torch_compile": args.torch_compile,
        "FSDP and ZeRO-3 split the weights": splits_weights(trainer),
        "pad_to_multiple_of": args.pad_to_multiple_of,
        "cast_lm_head_to_fp32": args.cast_lm_head_to_fp32,
        "the generation config wants more than sampling": config is not None
        and (
            config.num_return_sequences not in (None, 1)
            or config.get_generation_mode() not in (GenerationMode.SAMPLE, GenerationMode.GREEDY_SEARCH)
            or config.cache_implementation is not None
            or config.stop_strings is not None
            or config.max_time is not None
            or config.use_cache is False
            or config.guidance_scale not in (None, 1)
        ),
    }
    reason = next((reason for reason, applies in checks.items() if applies), None)
    return reason or private.lacks(trainer, "generation_config", "generation_kwargs")


def _pad_left(tensors: list[Tensor], axis: int, value: int = 0, dim: int = 0) -> Tensor:
    """Concatenate along `dim` tensors that differ along `axis`, padded on the left to the longest."""
    longest = max(tensor.shape[axis] for tensor in tensors)
    behind = tensors[0].ndim - 1 - axis % tensors[0].ndim
    return torch.cat(
        [
            tensor
            if tensor.shape[axis] == longest
            else torch.nn.functional.pad(tensor, [0, 0] * behind + [longest - tensor.shape[axis], 0], value=value)
            for tensor in tensors
        ],
        dim=dim,
    )


def _take(value: Any, rows: Tensor) -> Any:
    """Rows of a value of TRL's batch: a tensor or list by rows, or something that all rows share."""
    if isinstance(value, Tensor):
        return value[rows] if value.ndim else value
    return value if value is None else [value[row] for row in rows]
