"""What training and testing a model costs: steps, tokens, FLOPs, bytes, seconds. Pure arithmetic.

Names in the formulas: N weights that multiply, T tokens, P prompt tokens (image included), C completion tokens, G
completions of a prompt, H width, K width of keys, I inner width, V vocabulary, D width of the vision tower.

- FLOPs count a multiplication and its addition as two. A token's forward pass is 2N + 4H per layer and token that it
  is compared with; a backward pass is twice that, or once where the weights are frozen and only activations need
  gradients (LoRA). Attention is counted over all pairs, also those that a causal mask hides, as
  `torch.utils.flop_counter` does.
- A step is no faster than its FLOPs at a stated share of the GPU's peak, and no faster than its kernels can be
  started, which is what bounds small models and generation token by token.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from stages.training import epochs as epochs_of_trainer
from tools.planning.architecture import BYTES, Architecture, Precision

Adaptation = Literal["full", "lora", "qlora"]
Strategy = Literal["single", "ddp", "fsdp", "zero2", "zero3"]

QUANTIZED_BYTES = 0.516
"""Of a weight in NF4: half a byte, and the scale of 64 weights, itself in eight bits (QLoRA, arXiv 2305.14314)."""

REFERENCE_STORE = 2**30
"""Bytes at most that `stages.training.shared_prefix` keeps of the reference's keys and values."""

TILE = 32768
"""Columns of the vocabulary that are projected at once by TRL's chunked log-probabilities."""

CONTEXT = 2**30
"""Bytes that CUDA, cuBLAS and the allocator's rounding take before anything is computed: a rule of thumb."""


@dataclass(frozen=True)
class GPU:
    """A graphics card by its data sheet.

    Attributes:
        bfloat16: dense peak, FLOP/s, in bfloat16 (float16 on those before Ampere, which have no bfloat16).
        float32: dense peak, FLOP/s, in float32 without TF32.
        memory: bytes.
        bandwidth: bytes/s of its memory.
    """

    bfloat16: float
    float32: float
    memory: float
    bandwidth: float


def _gpu(bfloat16: float, float32: float, memory: float, bandwidth: float) -> GPU:
    """From TFLOP/s, TFLOP/s, GB and GB/s."""
    return GPU(bfloat16 * 1e12, float32 * 1e12, memory * 1e9, bandwidth * 1e9)


GPUS = {
    "t4": _gpu(65, 8.1, 16, 320),
    "v100_32": _gpu(125, 15.7, 34, 900),
    "rtx_3090": _gpu(71, 35.6, 25.8, 936),
    "rtx_4090": _gpu(165, 82.6, 25.8, 1008),
    "a10g": _gpu(70, 35, 24, 600),
    "l4": _gpu(121, 30.3, 24, 300),
    "l40s": _gpu(362, 91.6, 48, 864),
    "a100_40": _gpu(312, 19.5, 42.5, 1555),
    "a100_80": _gpu(312, 19.5, 85, 2039),
    "h100": _gpu(989, 67, 85, 3350),
    "h200": _gpu(989, 67, 150, 4800),
    "cpu_8": _gpu(0.5, 0.5, 16, 40),  # no GPU: eight cores with AVX2 at 2 GHz, as in a laptop
}
"""By name. Data sheets give the memory in round numbers; here it is what the driver reports."""


HERE = "here"
"""In place of a name: the processor of this machine, measured by `tools.planning.here`."""


@dataclass(frozen=True)
class Sample:
    """What a sample is made of, on average.

    Attributes:
        prompt: tokens of the prompt, the images' included.
        patches: patches of each of its images, before they are merged.
        completion: tokens that are written or, in SFT and DPO, shown as a target.
        images: how many it has.
    """

    prompt: float
    patches: int
    completion: float
    images: float = 1

    @property
    def tokens(self) -> float:
        """Prompt and completion."""
        return self.prompt + self.completion

    def vision_flops(self, architecture: Architecture) -> float:
        """A forward pass of the vision tower: no image is compared with another."""
        return self.images * architecture.vision_flops(self.patches)


@dataclass(frozen=True)
class Training:
    """How a cell is trained; the names are those of `params.yaml`.

    Attributes:
        reinforced: GRPO, and not SFT or DPO.
        answers: of a prompt, learned from at once: 1; of DPO the two of a pair, or those of a list.
        preference: how the right answer is preferred to wrong ones; None of SFT and GRPO.
        candidates: answers of all prompts that the start model reads before the first step, to choose wrong ones.
        rank: of LoRA adapters.
        targets: regular expression over the names of modules that get adapters; None where that is not said.
        dtype: in which the base model is published; adapters leave it in this type.
        samples: how many there are to learn from.
        prompts: in a step, on average: `global_batch_size`, or fewer where an epoch ends with an incomplete step.
        processes: GPUs that train together, each on its share of a step's prompts.
    """

    reinforced: bool
    steps: int
    samples: int
    prompts: float
    global_batch_size: int
    per_device_batch_size: int
    adaptation: Adaptation = "full"
    rank: int = 8
    targets: str | None = None
    precision: Precision = "bfloat16"
    dtype: str = "bfloat16"
    gradient_checkpointing: bool = False
    loss_on_prompt: bool = False
    generations: int = 1
    max_completion_length: int = 0
    shared_prefix: bool = False
    vllm: bool = False
    beta: float = 0.0
    iterations: int = 1
    strategy: Strategy = "single"
    processes: int = 1
    dropout: float = 0.0
    attention: str = "sdpa"
    answers: float = 1.0
    preference: Literal["pairs", "list"] | None = None
    candidates: float = 0.0

    @property
    def has_reference(self) -> bool:
        """Whether a frozen copy of the start model reads what is learned from; adapters are switched off instead."""
        return self.preference is not None or (self.reinforced and self.beta > 0)

    @property
    def passes(self) -> int:
        """Passes of one process in an optimiser step."""
        return max(self.global_batch_size // (self.per_device_batch_size * self.processes), 1)

    @property
    def shares(self) -> bool:
        """Whether prompts are encoded once per group: not with what `shared_prefix.why_not_shared` names."""
        dropout = self.adaptation != "full" and self.dropout > 0
        hindered = self.gradient_checkpointing or self.vllm or self.splits_weights or dropout
        hindered = hindered or self.attention != "sdpa"
        return self.reinforced and self.shared_prefix and not hindered

    @property
    def deepspeed(self) -> bool:
        """Whether DeepSpeed keeps the float32 weights as part of the optimiser, and computes with bfloat16 ones."""
        return self.strategy in ("zero2", "zero3")

    @property
    def splits_weights(self) -> bool:
        """Whether each GPU holds a part of every weight."""
        return self.strategy in ("fsdp", "zero3")

    @property
    def valid(self) -> bool:
        """Whether `stages.runtime.launch` and the trainers take these settings together."""
        whole = self.global_batch_size % (self.per_device_batch_size * self.processes) == 0
        typed = self.precision == "bfloat16" or not (
            self.deepspeed or self.splits_weights or self.adaptation == "qlora"
        )
        return whole and typed and not (self.adaptation == "qlora" and self.splits_weights)

    @property
    def weights(self) -> str:
        """The type in which weights are held: float32 for full training, whose small steps bfloat16 rounds away."""
        if self.deepspeed:
            return "bfloat16"
        return "float32" if self.adaptation == "full" else self.dtype

    def trainable(self, architecture: Architecture) -> int:
        """Parameters that are trained."""
        if self.adaptation == "full":
            return architecture.parameters
        return architecture.adapters(self.rank, self.targets)

    def trains_vision(self, architecture: Architecture) -> bool:
        """Whether gradients reach the vision tower."""
        if self.adaptation == "full":
            return True
        return architecture.adapts_vision(self.targets)


@dataclass(frozen=True)
class Work:
    """FLOPs of one optimiser step, of all processes together.

    Attributes:
        sampling: of encoding the prompts for generation and of generating.
        reference: of the frozen reference.
        training: forward and backward.
    """

    sampling: float
    reference: float
    training: float

    @property
    def total(self) -> float:
        """Their sum."""
        return self.sampling + self.reference + self.training


def schedule(
    samples: int,
    steps: int | None,
    epochs: float | None,
    global_batch_size: int,
    per_device_batch_size: int,
    processes: int,
    reinforced: bool,
    iterations: int,
    epoch: epochs_of_trainer.Epoch = "whole_steps",
) -> tuple[int, float]:
    """How many optimiser steps the trainers make, and how many prompts a step has on average.

    As transformers 5.23 and TRL 1.16 do it. SFT: the last step of an epoch takes what is left. GRPO: what the trainer
    itself asks, `stages.training.epochs`.
    """
    if reinforced:
        found = epochs_of_trainer.schedule(samples, steps, epochs, global_batch_size, iterations, epoch)
        return found.steps, found.mean
    batches = math.ceil(math.ceil(samples / per_device_batch_size) / processes)
    per_epoch = math.ceil(batches / (global_batch_size // (per_device_batch_size * processes)))
    prompts = samples / per_epoch
    return steps if steps is not None else math.ceil((epochs or 1) * max(per_epoch, 1)), prompts


def step_work(architecture: Architecture, training: Training, sample: Sample) -> Work:
    """FLOPs of an average optimiser step.

    Per prompt, F a forward pass of tower and language model, S the projection of the scored tokens onto the vocabulary,
    and b what training multiplies F by: 3, with frozen weights 2 (adapters and attention 3), and 1 more where
    activations are computed again. TRL computes S again in its backward pass: it counts 4 times, or 3 where frozen.

    - SFT: b F(P + C) + 4 S.
    - DPO, for each answer of a pair: F(P + C) + S by the reference, and b F(P + C) + 4 S; of a list 3 S, or 2 where
      frozen, since its loss keeps the scores.
    - GRPO with shared prompts: F(P), again for training where a step has several passes or iterations; G C tokens
      sampled; the reference F(P) once a run for each sample, and G C tokens; training b F(P + G C) + 4 G S.
    - TRL's own GRPO: G times F(P) and C tokens sampled, F(P + C) + S by the reference, and b F(P + C) + 4 S.
    """
    if not training.reinforced:
        rows = training.prompts * training.answers
        reference = rows * _reading_flops(architecture, sample) if training.has_reference else 0
        return Work(0, reference, rows * _supervised_flops(architecture, training, sample))
    group = _shared_group if training.shares else _stock_group
    of_prompt = group(architecture, training, sample)
    fresh = training.prompts / training.iterations
    return Work(
        sampling=fresh * of_prompt.sampling,
        reference=fresh * of_prompt.reference * training.has_reference,
        training=training.prompts * of_prompt.training,
    )


def _supervised_flops(architecture: Architecture, training: Training, sample: Sample) -> float:
    """FLOPs of training on one sample by SFT, or on one answer by DPO."""
    scored = sample.tokens if training.loss_on_prompt else sample.completion
    image = _vision_passes(architecture, training) * sample.vision_flops(architecture)
    return image + _training_flops(architecture, training, sample.tokens, sample.tokens**2, scored)


def _reading_flops(architecture: Architecture, sample: Sample) -> float:
    """FLOPs of the log-probability of one answer by a model that is not trained."""
    language = architecture.language_flops(sample.tokens, sample.tokens**2)
    return sample.vision_flops(architecture) + language + architecture.head_flops(sample.completion)


def choosing_flops(architecture: Architecture, training: Training, sample: Sample) -> float:
    """FLOPs before the first step: the start model reads all answers among which its negatives are chosen."""
    return training.candidates * _reading_flops(architecture, sample)


def _shared_group(architecture: Architecture, training: Training, sample: Sample) -> Work:
    """FLOPs of one prompt and its completions, laid end to end behind it, each seeing the prompt and itself."""
    image = sample.vision_flops(architecture)
    inputs = _read_tokens(training, sample)
    scored = training.generations * sample.completion
    pairs = sample.prompt**2 + inputs * (sample.prompt + inputs)
    encoding = image + _forward_flops(architecture, training, sample.prompt, sample.prompt**2)
    trained = _vision_passes(architecture, training) * image
    trained += _training_flops(architecture, training, sample.prompt + inputs, pairs, scored)
    if training.passes == 1 and training.iterations == 1:
        trained -= encoding  # kept from generation
    return Work(
        sampling=encoding + _sampling_flops(architecture, training, sample),
        reference=_first_visits(training) * (image + architecture.language_flops(sample.prompt, sample.prompt**2))
        + architecture.language_flops(inputs, pairs - sample.prompt**2)
        + architecture.head_flops(scored),
        training=trained,
    )


def _stock_group(architecture: Architecture, training: Training, sample: Sample) -> Work:
    """FLOPs of one prompt and its completions as TRL computes them: the prompt again for each completion."""
    group = training.generations
    image = sample.vision_flops(architecture)
    tokens, pairs, scored = group * sample.tokens, group * sample.tokens**2, group * sample.completion
    encoding = image + _forward_flops(architecture, training, sample.prompt, sample.prompt**2)
    return Work(
        sampling=group * encoding + _sampling_flops(architecture, training, sample),
        reference=group * image + architecture.language_flops(tokens, pairs) + architecture.head_flops(scored),
        training=group * _vision_passes(architecture, training) * image
        + _training_flops(architecture, training, tokens, pairs, scored),
    )


def _forward_flops(architecture: Architecture, training: Training, tokens: float, pairs: float) -> float:
    """FLOPs of a forward pass of the language model with its adapters."""
    return architecture.language_flops(tokens, pairs) + 2 * _adapter_weights(architecture, training) * tokens


def _training_flops(
    architecture: Architecture, training: Training, tokens: float, pairs: float, scored: float
) -> float:
    """FLOPs of a forward and a backward pass of the language model, of which `scored` tokens have a loss."""
    full = training.adaptation == "full"
    flops = _passes_of_weights(training) * architecture.language_flops(tokens, 0)
    # Adapters are trained, and attention, which has no weights, is passed through on its way to them.
    adapters = 2 * _adapter_weights(architecture, training) * tokens
    flops += (3 + training.gradient_checkpointing) * (architecture.language_flops(0, pairs) + adapters)
    again = training.preference != "list"
    return flops + ((3 if full else 2) + again) * architecture.head_flops(scored)


def _sampling_flops(architecture: Architecture, training: Training, sample: Sample) -> float:
    """FLOPs of generating the completions of one prompt that is encoded already."""
    inputs = _read_tokens(training, sample)
    scored = training.generations * sample.completion
    return _forward_flops(architecture, training, inputs, inputs * sample.tokens) + architecture.head_flops(scored)


def _read_tokens(training: Training, sample: Sample) -> float:
    """Tokens of a prompt's completions that are read again: the last of each is only written."""
    return training.generations * (sample.completion - 1)


def _first_visits(training: Training) -> float:
    """Share of the prompts that the reference has not seen yet, and must encode; it keeps them for the run."""
    fresh = training.prompts / training.iterations
    return training.samples / max(training.samples, training.steps * fresh)


def _passes_of_weights(training: Training) -> int:
    """Forward passes that a training step costs: a backward pass is two, or one where the weights are frozen."""
    return (3 if training.adaptation == "full" else 2) + int(training.gradient_checkpointing)


def _vision_passes(architecture: Architecture, training: Training) -> int:
    """The same of the vision tower, which is left out of the backward pass where nothing in it is trained."""
    return _passes_of_weights(training) if training.trains_vision(architecture) else 1


def _adapter_weights(architecture: Architecture, training: Training) -> int:
    """How many weights adapters have; the reference is computed with the adapters switched off."""
    return 0 if training.adaptation == "full" else training.trainable(architecture)


def activation_bytes(architecture: Architecture, training: Training, tokens: float, patches: float) -> float:
    """What a pass keeps for its backward pass, in bytes; `tokens` and `patches` of the whole pass.

    Per token and language layer 32 H + 8 K + 16 I in float32; with bfloat16 autocast (30 H + 4 K + 8 I), since norms
    and the residual stay in float32; with adapters 24 H in place of 32 H or 30 H, and 28 r float32 for the adapters of
    seven projections, r the rank. Per patch and vision block 92 D, half of that with autocast. Counted by
    `torch.autograd.graph.saved_tensors_hooks` on transformers 5.23, as the tests do again. With checkpointing a layer
    keeps its input, and one layer at a time the rest.
    """
    number = BYTES[training.precision]
    adapted = training.adaptation != "full"
    width = (24 if adapted else 32 if training.precision == "float32" else 30) * architecture.hidden
    layer = width + number * (2 * architecture.keys + 4 * architecture.intermediate)
    layer += 7 * training.rank * number * adapted
    block = 23 * number * architecture.vision_hidden * training.trains_vision(architecture)
    if not training.gradient_checkpointing:
        return tokens * architecture.layers * layer + patches * architecture.vision_layers * block
    held = BYTES["float32" if training.adaptation == "full" else training.dtype]
    kept = tokens * architecture.layers * held * architecture.hidden
    kept += (
        patches * architecture.vision_layers * held * architecture.vision_hidden * training.trains_vision(architecture)
    )
    return kept + max(tokens * layer, patches * block)


@dataclass(frozen=True)
class Memory:
    """Bytes on each GPU at the peak of a training, by what they hold.

    Attributes:
        copies: copies of float32 weights that bfloat16 autocast makes, and layers that are gathered from other GPUs.
        store: keys and values of the reference that are kept for the run.
        working: the larger of what training and generation take: activations and the head's gradient, or keys,
            values and gathered weights.
        context: CUDA's own.
    """

    weights: float
    gradients: float
    optimiser: float
    reference: float
    copies: float
    store: float
    working: float
    context: float = CONTEXT

    @property
    def total(self) -> float:
        """Their sum."""
        return sum(asdict(self).values())


def held_weights(architecture: Architecture, training: Training) -> float:
    """Bytes of a whole model as it is held in training; QLoRA quantises the weights of layers, blocks and merger."""
    number = BYTES[training.weights]
    if training.adaptation == "qlora":
        quantized = architecture.layers * architecture.layer_weights + architecture.merger_weights
        quantized += architecture.vision_layers * architecture.vision_layer_weights
        return QUANTIZED_BYTES * quantized + number * (architecture.parameters - quantized)
    return number * architecture.parameters


def training_memory(architecture: Architecture, training: Training, sample: Sample) -> Memory:
    """Bytes on each GPU at the peak of training.

    Weights in their type; of what is trained 4 bytes of gradient and 8 of Adam's moments; a reference as large as the
    weights where beta > 0 and in DPO (adapters are switched off instead). FSDP shares all of it out over the
    processes, and so does ZeRO-3, ZeRO-2 gradients and moments; both ZeROs hold weights and gradients in bfloat16, and
    the float32 weights with the moments. Split weights are gathered whole to generate. DDP holds gradients twice: in
    its buckets.
    `sample.completion` is taken at its most.
    """
    trained = training.trainable(architecture)
    adapters = 0 if training.adaptation == "full" else trained
    adapter_bytes, gradient_bytes, state_bytes = (2, 2, 12) if training.deepspeed else (4, 4, 8)
    weights = held_weights(architecture, training)
    shards = training.processes if training.splits_weights else 1
    state_shards = training.processes if training.splits_weights or training.deepspeed else 1
    group, rows = training.generations, training.per_device_batch_size
    fresh_rows = rows * training.passes
    if training.shares:
        tokens, images = sample.prompt + group * sample.completion, sample.images
    else:
        tokens, images = group * training.answers * sample.tokens, group * training.answers * sample.images
    # TRL sums the gradient of the output projection in float32, over all of the vocabulary.
    head = BYTES["float32"] * architecture.embedding * (training.adaptation == "full")
    tile = BYTES[training.precision] * min(4096, rows * tokens) * min(TILE, architecture.vocabulary)
    updating = activation_bytes(architecture, training, rows * tokens, rows * images * sample.patches) + head + tile
    if training.preference == "list":
        # The scores of all answers, in the type of the pass; in float32, as they are and as probabilities.
        number = BYTES[training.precision] * (training.precision != "float32") + 2 * BYTES["float32"]
        updating += number * rows * training.answers * (sample.completion + 1) * architecture.vocabulary
    generating = 0.0
    if training.reinforced:
        generating = architecture.cache_bytes(fresh_rows * tokens, training.precision)
        generating += BYTES["float32"] * fresh_rows * group * architecture.vocabulary
        generating += weights * training.splits_weights
    kept = architecture.cache_bytes(training.samples / training.processes * sample.prompt, training.precision)
    return Memory(
        weights=(weights + adapter_bytes * adapters) / shards,
        gradients=gradient_bytes * trained / state_shards * (2 if training.strategy == "ddp" else 1),
        optimiser=state_bytes * trained / state_shards,
        reference=weights / shards * (training.has_reference and training.adaptation == "full"),
        copies=copied_weights(architecture, training),
        store=min(REFERENCE_STORE, kept) * (training.has_reference and training.shares),
        working=max(updating, generating),
    )


def copied_weights(architecture: Architecture, training: Training) -> float:
    """Bytes of weights that a pass makes for itself.

    Autocast keeps a bfloat16 copy of each float32 weight that multiplies until the pass ends. Of split weights two
    parts are gathered at a time, at most as large as the embedding.
    """
    if training.splits_weights:
        return 2 * BYTES["bfloat16"] * max(architecture.layer_weights, architecture.embedding)
    if training.adaptation == "full" and training.precision == "bfloat16" and not training.deepspeed:
        multiplied = architecture.layers * architecture.layer_weights + architecture.embedding
        return BYTES["bfloat16"] * (multiplied + architecture.vision_parameters)
    return 0.0


def decoding_bytes(architecture: Architecture, training: Training) -> float:
    """Bytes of weights that move for each token that is generated in training.

    Under autocast TRL's own generation casts float32 weights anew for each token (4 bytes read, 2 written, 2 read); the
    shared one keeps the copies.
    """
    if training.weights == "float32" and training.precision == "bfloat16":
        return (2 if training.shares else 8) * architecture.parameters
    return held_weights(architecture, training)


def remedies(architecture: Architecture, training: Training, sample: Sample, available: float) -> list[str]:
    """The smallest changes of settings that make a training fit, each as `key: value`; cheapest first, [] if none."""
    passes = [
        size for size in range(training.per_device_batch_size - 1, 0, -1) if training.per_device_batch_size % size == 0
    ]
    smaller = [{"per_device_batch_size": size} for size in passes]
    checkpointed = {"gradient_checkpointing": True}
    split = [{"strategy": "zero3", "processes": count} for count in (2, 4, 8) if count > training.processes]
    adapted = [] if training.targets is None else [{"adaptation": adaptation} for adaptation in ("lora", "qlora")]
    one = {"per_device_batch_size": 1}
    singles = [*smaller, checkpointed, *split, *adapted]
    doubles = [one | checkpointed, *(large | small for large in (*split, *adapted) for small in (one, checkpointed))]
    triples = [large | one | checkpointed for large in (*split, *adapted)]
    for choices in (singles, doubles, triples):
        changed = [replace(training, **choice) for choice in choices]
        fitting = [
            each
            for each in changed
            if each != training and each.valid and training_memory(architecture, each, sample).total <= available
        ]
        if fitting:
            # Of several values of the same settings the first.
            changes = [_difference(training, each) for each in fitting]
            return [_said(change) for change in {tuple(change): change for change in reversed(changes)}.values()][::-1]
    return []


def _difference(before: Training, after: Training) -> dict[str, Any]:
    old, new = asdict(before), asdict(after)
    return {name: new[name] for name in new if new[name] != old[name]}


def _said(change: dict[str, Any]) -> str:
    keys = {"strategy": "launch.strategy", "processes": "launch.processes"}
    return ", ".join(f"{keys.get(name, name)}: {str(value).lower()}" for name, value in change.items())


@dataclass(frozen=True)
class Speed:
    """What time is reckoned with. None of it is measured here: all are assumptions to be replaced by one's own.

    Attributes:
        gpu: peaks and bandwidth.
        utilisation: share of the peak FLOP/s that training and the encoding of prompts reach.
        bandwidth_share: share of the peak bandwidth that generation reaches.
        launch: seconds that a layer's forward pass takes at least, since its kernels are started one by one.
        spread: the longest completion of a batch in terms of the mean, since a batch is written until its last ends.
    """

    gpu: GPU
    utilisation: float
    bandwidth_share: float
    launch: float
    spread: float

    def forward_seconds(self, architecture: Architecture, flops: float, precision: Precision, times: int = 1) -> float:
        """A pass through tower and language model of `flops` in all, the layers started `times` times."""
        layers = architecture.layers + architecture.vision_layers
        peak = self.gpu.float32 if precision == "float32" else self.gpu.bfloat16
        return max(flops / (peak * self.utilisation), times * layers * self.launch)

    def longest(self, mean: float, most: int) -> float:
        """Tokens until the last completion of a batch has ended."""
        return min(most, math.ceil(self.spread * mean))

    def decoding_seconds(self, architecture: Architecture, weights: float, cached: float, tokens: float) -> float:
        """Generation of `tokens` tokens in each row: each reads all `weights` and `cached` bytes of keys and values."""
        read = (weights + cached) / (self.gpu.bandwidth * self.bandwidth_share)
        return tokens * max(read, architecture.layers * self.launch)


def training_seconds(
    architecture: Architecture, training: Training, sample: Sample, speed: Speed, length: float
) -> float:
    """Seconds of all optimiser steps; each batch is generated until `length` tokens are written.

    The processes work side by side, and their communication is not counted.
    """
    work = step_work(architecture, training, sample)
    share = 1 / training.processes
    times = 3 + training.gradient_checkpointing

    def seconds(flops: float, starts: int) -> float:
        return speed.forward_seconds(architecture, flops * share, training.precision, starts)

    step = seconds(work.training, times * training.passes)
    if training.reinforced:
        rows = training.per_device_batch_size * training.passes
        tokens = sample.prompt + training.generations * length if training.shares else 0
        tokens = tokens or training.generations * (sample.prompt + length)
        fresh = seconds(work.sampling, 1) + seconds(work.reference, training.passes) * (work.reference > 0)
        weights = decoding_bytes(architecture, training)
        cached = architecture.cache_bytes(rows * tokens, training.precision)
        # vLLM starts a token's kernels all at once.
        generating = replace(speed, launch=0) if training.vllm else speed
        fresh += generating.decoding_seconds(architecture, weights, cached, length)
        step += fresh / training.iterations
    elif work.reference > 0:
        step += seconds(work.reference, training.passes)
    # AdamW reads and writes weights and moments and reads gradients: 28 bytes for each trained parameter.
    step += 28 * training.trainable(architecture) / speed.gpu.bandwidth
    # Each process chooses for itself, one prompt's answers at a time.
    choosing = choosing_flops(architecture, training, sample)
    prompts = training.samples * (training.candidates > 0)
    return training.steps * step + speed.forward_seconds(architecture, choosing, training.precision, prompts)


@dataclass(frozen=True)
class Evaluation:
    """Testing on one dataset.

    Attributes:
        samples: how many are tested.
        most: tokens at most of an output.
        dtype: of the weights.
    """

    samples: int
    batch_size: int
    most: int
    dtype: str

    @property
    def precision(self) -> Precision:
        """In which it is computed."""
        return "float32" if self.dtype == "float32" else "bfloat16"


def evaluation_flops(architecture: Architecture, evaluation: Evaluation, sample: Sample) -> float:
    """Each image once, each prompt once, then token by token."""
    prompt = sample.vision_flops(architecture) + architecture.language_flops(sample.prompt, sample.prompt**2)
    written = architecture.language_flops(sample.completion, sample.completion * sample.tokens)
    return evaluation.samples * (prompt + written + architecture.head_flops(sample.completion))


def evaluation_seconds(
    architecture: Architecture, evaluation: Evaluation, sample: Sample, speed: Speed, length: float
) -> float:
    """Seconds on one GPU, each batch being written until `length` tokens; reading images is not counted."""
    batches = math.ceil(evaluation.samples / evaluation.batch_size)
    prompt = sample.vision_flops(architecture) + architecture.language_flops(sample.prompt, sample.prompt**2)
    batch = evaluation.batch_size * prompt
    cached = architecture.cache_bytes(evaluation.batch_size * (sample.prompt + length), evaluation.precision)
    weights = BYTES[evaluation.dtype] * architecture.parameters
    reading = speed.forward_seconds(architecture, batch, evaluation.precision)
    writing = speed.decoding_seconds(architecture, weights, cached, length)
    return batches * (reading + writing)


def evaluation_memory(architecture: Architecture, evaluation: Evaluation, sample: Sample) -> float:
    """Bytes: the weights, keys and values of a batch, a prompt's passing activations, the logits, CUDA's own."""
    number = BYTES[evaluation.dtype]
    rows = evaluation.batch_size
    cache = architecture.cache_bytes(rows * (sample.prompt + evaluation.most), evaluation.precision)
    passing = rows * sample.prompt * number * (4 * architecture.hidden + 3 * architecture.intermediate)
    passing = max(passing, rows * sample.images * sample.patches * number * (6 * architecture.vision_hidden))
    logits = rows * architecture.vocabulary * (number + BYTES["float32"])
    return number * architecture.parameters + cache + passing + logits + CONTEXT


def saved_bytes(architecture: Architecture, training: Training) -> float:
    """What a trained model takes on disk: its weights in the published type, or its adapters in float32."""
    if training.adaptation == "full":
        return BYTES[training.dtype] * architecture.parameters
    return BYTES["float32"] * training.trainable(architecture)


def checkpoint_bytes(architecture: Architecture, training: Training) -> float:
    """What a checkpoint takes on disk while a training runs: the trained weights and Adam's moments, in float32."""
    return 12 * training.trainable(architecture)
