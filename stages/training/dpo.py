"""Direct preference optimisation (arXiv 2305.18290), a baseline of P1 v6 Table 18, with TRL's `DPOTrainer`.

The table names four: DPO and listwise DPO, each with random and with model negatives. What they are made of is not
published in anything that was read, so that all of it is our own choice:

- Preferred is the right answer, as the method's target; against it stand wrong answers that the question lists.
- `negatives`: `random` draws them by the seed; `model` takes those that the start model finds likeliest, which are what
  it would confuse with the right one.
- Pairs: each wrong answer makes a pair with the right one; TRL's sigmoid loss.
- List: the right answer and all its wrong ones make one list, and the loss is Plackett and Luce's for the first place,
  the order of the wrong ones being unknown: `-log softmax(beta * (log policy - log reference))` of the right one. With
  one wrong answer it is the loss of a pair.

The reference is the start model. TRL has no listwise loss; `listwise` computes it in TRL's trainer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from stages.modelling import private
from stages.runtime.errors import UserError
from stages.tasks.draws import generator
from stages.training.common import Example, Record, Training, TrainingParams, adapters, arguments, progress, result
from stages.training.sft import samples_seen

if TYPE_CHECKING:
    from torch import Tensor


class Params(TrainingParams):
    """Section `dpo` of `params.yaml`.

    `negative_count`: wrong answers of each sample at most; null: all that its question lists. A batch counts pairs, or
    lists.
    """

    beta: float = Field(gt=0)
    negatives: Literal["random", "model"]
    negative_count: int | None = Field(gt=0)


def train(training: Training) -> tuple[Any, Record]:
    """Fine-tune the model to prefer the right answers.

    Raises:
        UserError: a question lists no wrong answer, prompts are too long, processes too many, or adapters go to no
            module; or this version of TRL cannot have the listwise loss.

    Returns:
        The trained model (the adapters' model for LoRA) and its record; a prompt's tokens count once for each answer.
    """
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from stages.training.checkpoints import resumable

    training.check()
    params, in_lists = training.params, training.preference == "list"
    chosen = choose(training)
    rows = [
        {"prompt": example.prompt, "images": example.images, **answers}
        for example, wrong in zip(training.examples, chosen, strict=True)
        for answers in (
            [{"answers": [example.target, *wrong]}]
            if in_lists
            else [{"chosen": _turn(str(example.target)), "rejected": _turn(text)} for text in wrong]
        )
    ]
    trainer = resumable(listwise(DPOTrainer) if in_lists else DPOTrainer)(
        model=training.model,
        args=DPOConfig(
            **arguments(params, training.seed, training.folder, rows_per_prompt=1),
            max_length=None,
            beta=params.beta,
            loss_type=["sigmoid"],
            disable_dropout=False,  # the adapters' dropout is a key of ours
            remove_unused_columns=not in_lists,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=training.processor,
        peft_config=adapters(params),
        callbacks=list(training.callbacks),
        data_collator=(lambda lists: collate(training.processor, lists)) if in_lists else None,
    )
    progress(trainer)
    trainer.train()
    steps = trainer.state.global_step
    cost = {
        "steps": steps,
        "samples_seen": samples_seen(len(rows), steps, params.global_batch_size),
        "prompt_tokens": int(max(entry.get("num_tokens", 0) for entry in trainer.state.log_history)),
        "completion_tokens": 0,
    }
    return result(trainer, cost)


def choose(training: Training) -> list[list[str]]:
    """The wrong answers that stand against the right one of each example.

    By chance, in the order drawn; by the start model, the likeliest first, of equals the one that is listed first.

    Raises:
        UserError: an example has none.
    """
    params, chosen = training.params, []
    for number, example in enumerate(training.examples):
        wrong = list(example.rejected)
        if not wrong:
            raise UserError(
                f"methods: preference is invalid for sample {number}, {example.sample.question!r}, which lists no "
                "wrong answer; valid: settings and tasks whose questions list options, or another method"
            )
        if params.negatives == "random":
            order = generator("negatives", training.seed, number).permutation(len(wrong))
        else:
            order = np.argsort(-start_scores(training, example), kind="stable")
        chosen.append([wrong[i] for i in order[: params.negative_count]])
    return chosen


def start_scores(training: Training, example: Example) -> np.ndarray:
    """The log-probability of each wrong answer of an example by the start model, float64."""
    import torch

    from stages.modelling.model import device

    model = training.model.to(device())
    rows = [{"prompt": example.prompt, "images": example.images, "answers": list(example.rejected)}]
    batch = collate(training.processor, rows).to(device())
    was_training = model.training
    model.eval()
    with torch.no_grad():
        found = log_probabilities(model, batch)
    model.train(was_training)
    return found.double().cpu().numpy()


def collate(processor: Any, rows: list[dict[str, Any]]) -> Any:
    """A batch of lists of answers, an answer a row, its image and prompt before it.

    Args:
        processor: of the model that is trained.
        rows: lists, each with `prompt` (a conversation), `images` (PIL) and `answers` (texts), the right one first.

    Returns:
        What the processor returns of R answers, `completion_mask` (R, T), 1 at an answer's tokens, all of which stand
        in the last C columns, and `lists` (R,), the number of the list of each answer, rising.
    """
    import torch

    prompts, answers, images, lists = [], [], [], []
    for number, row in enumerate(rows):
        opened = processor.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
        for text in row["answers"]:
            whole = processor.apply_chat_template(row["prompt"] + _turn(text), tokenize=False)
            prompts.append(opened)
            answers.append(whole.removeprefix(opened))
            images.append(row["images"])
            lists.append(number)
    batch = processor(images=images, text=prompts, padding=True, padding_side="left", return_tensors="pt")
    written = processor.tokenizer(answers, padding=True, padding_side="right", return_tensors="pt")
    behind = {"input_ids": written["input_ids"], "attention_mask": written["attention_mask"]}
    behind["mm_token_type_ids"] = torch.zeros_like(written["input_ids"])
    mask = torch.cat([torch.zeros_like(batch["attention_mask"]), written["attention_mask"]], dim=1)
    for name, value in behind.items():
        if name in batch:
            batch[name] = torch.cat([batch[name], value], dim=1)
    batch["completion_mask"], batch["lists"] = mask, torch.tensor(lists)
    return batch


def log_probabilities(model: Any, batch: Any) -> Tensor:
    """The log-probability (R,) of each answer of a batch of `collate`, the sum over its tokens, in float32."""
    mask = batch["completion_mask"]
    inputs = {name: value for name, value in batch.items() if name not in ("completion_mask", "lists")}
    width = int(mask.any(dim=0).sum())
    # One more, from which the first token of the answers is predicted.
    logits = model(**inputs, use_cache=False, logits_to_keep=width + 1).logits[:, -width - 1 : -1]
    targets = batch["input_ids"][:, -width:]
    found = logits.float().log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    return (found * mask[:, -width:]).sum(1)


def list_losses(ratios: Tensor, lists: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """The loss of each list, and the lead of its right answer.

    Args:
        ratios: (R,), log policy less log reference of each answer; the right one is the first of its list.
        lists: (R,), the number of each answer's list, rising from 0.
        beta: of the implicit reward `beta * ratio`.

    Returns:
        Two of (L,): `-log softmax` of the right one, and by how much its implicit reward is above the best wrong one's.

    >>> import torch
    >>> losses, lead = list_losses(torch.tensor([0.0, 0.0, 0.0, 2.0, 1.0]), torch.tensor([0, 0, 0, 1, 1]), beta=1.0)
    >>> [round(float(loss), 4) for loss in losses], lead.tolist()
    ([1.0986, 0.3133], [0.0, 1.0])
    """
    import torch

    losses, leads = [], []
    for number in range(int(lists[-1]) + 1):
        rewards = beta * ratios[lists == number]
        losses.append(-rewards.log_softmax(0)[0])
        leads.append(rewards[0] - rewards[1:].max())
    return torch.stack(losses), torch.stack(leads)


def listwise(stock: type) -> type:
    """TRL's trainer of pairs with the loss of lists in its place.

    Raises:
        UserError: this version of TRL has no place for it.
    """

    class ListwiseDPOTrainer(stock):
        def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool) -> Any:
            import torch

            found = log_probabilities(model, inputs)
            with torch.no_grad():
                if self.ref_model is None:
                    with self.accelerator.unwrap_model(self.model).disable_adapter():
                        before = log_probabilities(model, inputs)
                else:
                    before = log_probabilities(self.ref_model, inputs)
            losses, leads = list_losses(found - before, inputs["lists"], self.beta)
            if self.model.training:
                tokens = self.accelerator.gather_for_metrics(inputs["attention_mask"].sum()).sum().item()
                self._total_train_tokens += tokens
                self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
                together = self.accelerator.gather_for_metrics(leads.detach())
                self._metrics["train"]["rewards/margins"].append(together.mean().item())
                self._metrics["train"]["rewards/accuracies"].append((together > 0).float().mean().item())
            loss = losses.mean()
            return (loss, None) if return_outputs else loss

    missing = private.unlike(stock, ListwiseDPOTrainer, ("_compute_loss",))
    if missing:
        raise UserError(f"methods: a list of answers cannot be trained on here: {missing}; valid: dpo")
    return ListwiseDPOTrainer


def _turn(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]
