"""The network of the encoder arm: the sentence model with a linear head over labels; tuned, kept, read back.

    >>> network = tune_labels(
    ...     ["no power", "refund me"], ["fault", "money"], lr=1e-4, passes=8, seed=0
    ... )  # doctest: +SKIP
    >>> network.labels_of(["it does not start"])  # doctest: +SKIP
    ['fault']

Shapes: N texts, B texts of one batch, C labels, E embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metier.core.errors import ModelError
from metier.core.seeds import generator
from metier.models import SentenceModel, load_sentence_model

if TYPE_CHECKING:
    import torch

__all__ = ["BATCH_ROWS", "LabelNetwork", "tune_labels"]

BATCH_ROWS = 16
"""Rows of one step."""
SORTED_ROWS = 8 * BATCH_ROWS
"""Rows drawn at random that are cut into batches by length: padding costs time and teaches nothing."""
HEAD_LR = 1e-2
"""Peak learning rate of the head: it starts at zero, the layers below were trained by others."""
WARMUP = 0.1
"""Share of the steps in which the rate rises; then it falls to zero in a line."""
WEIGHT_DECAY = 0.01
MAX_GRAD_NORM = 1.0


@dataclass(frozen=True, slots=True)
class LabelNetwork:
    """A sentence model of its own and a head (E, C) over the mean token vector."""

    sentences: SentenceModel
    head: Any  # Any: torch.nn.Linear, and torch is loaded on first use
    labels: tuple[str, ...]
    """Name of every class, in the order of the head."""

    def labels_of(self, texts: Sequence[str]) -> list[str]:
        """The likeliest label of every text."""
        import torch

        tokens, found = self.sentences.tokens(texts), [""] * len(texts)
        for places in self.sentences.batches(tokens):
            with torch.inference_mode():
                score_BC = self.head(self.sentences.means([tokens[place] for place in places]))
            for place, best in zip(places, score_BC.argmax(1).tolist(), strict=True):
                found[place] = self.labels[best]
        return found

    def to_bytes(self) -> bytes:
        """The weights as one safetensors file; equal weights give equal bytes."""
        from safetensors.torch import save

        return bytes(save({name: tensor.contiguous() for name, tensor in sorted(self._tensors().items())}))

    @classmethod
    def from_bytes(cls, data: bytes, labels: Sequence[str]) -> LabelNetwork:
        """The network that `to_bytes` wrote; `labels` in the same order.

        Raises:
            ModelError: the bytes are no such weights, or those of other labels.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        network = cls._fresh(labels)
        try:
            kept = load(data)
            network.sentences.model.load_state_dict(_below("model.", kept))
            network.head.load_state_dict(_below("head.", kept))
        except (RuntimeError, SafetensorError) as err:
            raise ModelError(
                f"the kept weights of the encoder do not fit {len(labels)} labels over this sentence model ({err}). "
                "Delete the arm's stage folder to fit it again."
            ) from err
        return network

    @classmethod
    def _fresh(cls, labels: Sequence[str]) -> LabelNetwork:
        """The sentence model as published under a head of zeros."""
        import torch

        sentences = load_sentence_model()
        with torch.device("meta"):  # its own start is random, and is not wanted
            head = torch.nn.Linear(sentences.width, len(labels))
        head = head.to_empty(device="cpu")
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
        return cls(sentences, head, tuple(labels))

    def _tensors(self) -> dict[str, torch.Tensor]:
        below = {f"model.{name}": tensor for name, tensor in self.sentences.model.state_dict().items()}
        return {**below, **{f"head.{name}": tensor for name, tensor in self.head.state_dict().items()}}


def tune_labels(texts: Sequence[str], golds: Sequence[str], *, lr: float, passes: int, seed: int) -> LabelNetwork:
    """All layers of the sentence model and the head, tuned in fp32 with AdamW; `lr` is the peak of the layers.

    The same texts, numbers and seed give the same weights on one machine: dropout is off, and the order of the rows
    is all that is random.

    Raises:
        ModelError: the loss is not finite; the message names the step.
    """
    import torch

    labels = sorted(set(golds))
    network = LabelNetwork._fresh(labels)
    tokens = network.sentences.tokens(texts)
    gold_N = torch.tensor([labels.index(gold) for gold in golds])
    layers, head = list(network.sentences.model.parameters()), list(network.head.parameters())
    peaks = (lr, HEAD_LR)
    optimizer = torch.optim.AdamW(
        [{"params": layers}, {"params": head}], lr=lr, weight_decay=WEIGHT_DECAY, foreach=True
    )
    steps = list(_steps(tokens, passes=passes, seed=seed))
    for number, places in enumerate(steps):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * _rate(number, len(steps))
        score_BC = network.head(network.sentences.means([tokens[place] for place in places]))
        loss = torch.nn.functional.cross_entropy(score_BC, gold_N[places])
        if not torch.isfinite(loss):
            raise ModelError(
                f"the encoder's loss is {loss.item()} at step {number + 1} of {len(steps)} (peak rate {lr:g}); "
                "expected a number. Leave the arm out, and report the rows."
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own signature
        torch.nn.utils.clip_grad_norm_([*layers, *head], MAX_GRAD_NORM)
        optimizer.step()
    return network


def _steps(tokens: Sequence[Sequence[int]], *, passes: int, seed: int) -> Iterator[list[int]]:
    """Places of the rows of every step: each pass sees every row once, in another order."""
    for number in range(passes):
        rng = generator(seed, "encoder", number)
        order = rng.permutation(len(tokens)).tolist()
        batches: list[list[int]] = []
        for start in range(0, len(order), SORTED_ROWS):
            near = sorted(order[start : start + SORTED_ROWS], key=lambda place: len(tokens[place]))
            batches += [near[first : first + BATCH_ROWS] for first in range(0, len(near), BATCH_ROWS)]
        for place in rng.permutation(len(batches)).tolist():
            yield batches[place]


def _rate(step: int, num_steps: int) -> float:
    """Share of the peak rate at a step, the first being 0: up in a line, then down to zero in a line."""
    num_warmup = max(1, round(WARMUP * num_steps))
    if step < num_warmup:
        return (step + 1) / num_warmup
    return (num_steps - step) / (num_steps - num_warmup + 1)


def _below(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
