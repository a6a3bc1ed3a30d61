r"""Rows to tokens and back: what a model is prompted with, which tokens are trained, what a reply says.

    >>> renderer = Renderer(base.dir)  # doctest: +SKIP
    >>> rendered = renderer.train_row(row)  # doctest: +SKIP
    >>> show(renderer, rendered)  # doctest: +SKIP
    [("<|im_start|>user\nWhere is 4411?<|im_end|>\n<|im_start|>assistant\n", False),
     ("It left on Monday.<|im_end|>", True), ("\n", False)]

Trained are the content and the end-of-turn token of assistant turns (those not marked `train=false`);
nothing else ever is. Where a template writes earlier turns otherwise once later ones follow (Qwen3 drops
their reasoning), a row is rendered once for each stretch of replies that stand as they are prompted.
Rows that are too long are dropped and counted, never cut. Every row is checked as it is rendered;
`metier.render.invariants` checks the same by a second, slower road.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from metier.core.errors import DataError, ModelError
from metier.core.hashing import file_sha256, sha256_hex, value_hash
from metier.core.rows import Message, Role, Row
from metier.render.fitting import Fit, probe_fit
from metier.render.learned import RowProblem, trained_turns, training_messages, with_instruction
from metier.render.template import ChatTemplate, Conversation, Tools, unmarked
from metier.render.turns import Turns, probe_turns

__all__ = ["RenderedRow", "RenderedRows", "Renderer", "says_the_same"]

log = logging.getLogger(__name__)

_THINK_TAG = re.compile(r"\s*(</?think>)\s*")


@dataclass(frozen=True, slots=True)
class RenderedRow:
    """One row as a model is trained on it."""

    row_id: str
    """The row's id."""
    tokens: list[int]
    """The template's own tokens of the conversation."""
    weight: list[float]
    """1.0 where the token is trained, that is predicted from the tokens before it; weight[0] is 0."""

    @property
    def num_trained(self) -> int:
        """How many tokens are trained."""
        return sum(1 for value in self.weight if value)


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderedRows:
    """The rows that can be trained on, and why the others cannot."""

    kept: list[RenderedRow]
    """In the order of the input; a row stands several times where its replies need a rendering each."""
    dropped: dict[str, str]
    """Reason code by row id: too_many_tokens, no_trained_tokens, reply_unreadable, template_refuses."""
    sentences: dict[str, str]
    """The reason in words, by row id."""
    num_read: int
    """Rows given; rows kept + dropped, where a row id given twice counts twice."""


class Renderer:
    """Renders conversations with the template of one model folder."""

    def __init__(self, model_dir: Path, *, thinking: bool = False) -> None:
        """Read the tokenizer and template, and learn from probes how a reply ends and what messages may be.

        With `thinking`, replies carry their reasoning in front, in `<think>` tags, and prompts leave room for it;
        without, a template that reasons is told not to.

        Raises:
            ModelError: there is no template, or replies cannot be told from prompts in what it writes.
        """
        self.model_dir = model_dir
        self.template = ChatTemplate(model_dir, thinking=thinking)
        self._fit: Fit = probe_fit(self.template)
        self._turns: Turns = probe_turns(self.template, model_dir)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the tokenizer and template in use: training and scoring must name the same one."""
        written = [self.template.tokenizer.chat_template, file_sha256(self.model_dir / "tokenizer.json")]
        return value_hash([*written, self.template.switches])

    @property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end a reply: the template's end of turn and the model's end of text."""
        return self._turns.stop_ids

    @property
    def template_sha256(self) -> str:
        """SHA-256 of the template text in use; what a model was tuned with is what it must be prompted with."""
        return sha256_hex(str(self.template.tokenizer.chat_template).encode())

    @property
    def end_of_turn(self) -> str:
        """The word the template ends a reply with, such as `<|im_end|>`."""
        return self._turns.end_word

    def with_instruction(self, messages: Sequence[Message], instruction: str | None) -> tuple[Message, ...]:
        """The messages with the instruction as system message in front; see `with_instruction`."""
        return with_instruction(messages, instruction)

    def fitted(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The messages in the form this template takes them; see `metier.render.fitting`."""
        return self._fit.messages(messages)

    def prompt_tokens(self, messages: Sequence[Message], tools: Tools = ()) -> list[int]:
        """Tokens a model continues with its reply: the conversation, and an opened assistant turn.

        Raises:
            DataError: there are no messages, or the last one is an assistant's.
        """
        return self.prompt_tokens_batch([Conversation(messages, tools)])[0]

    def prompt_tokens_batch(self, prompts: Iterable[Conversation]) -> list[list[int]]:
        """`prompt_tokens` of many conversations, tokenised as one batch."""
        texts = []
        for index, prompt in enumerate(prompts):
            if not prompt.messages or prompt.messages[-1].role is Role.ASSISTANT:
                found = "no messages" if not prompt.messages else "an assistant message last"
                raise DataError(f"prompt {index} has {found}; expected a user, tool or system message last.")
            opened = prompt._replace(messages=self.fitted(prompt.messages), open_reply=True)
            texts.append(self.template.text(opened))
            self._turns.require_shown(self.template, opened, texts[-1])
        return self.template.encode(texts)

    def parse(self, tokens: Sequence[int]) -> str:
        """The reply text of sampled tokens: up to the end of turn, which is left out."""
        end = next((i for i, token in enumerate(tokens) if token in self.stop_ids), len(tokens))
        return self.template.decode(tokens[:end])

    def train_row(self, row: Row, instruction: str | None = None) -> RenderedRow:
        """The row's tokens and which of them are trained, where one rendering trains all its replies.

        Raises:
            DataError: the row has no reply, its reply does not survive the template and back, or its replies need
                several renderings (`train_rows`).
        """
        rendered = self.train_rows(row, instruction)
        if len(rendered) > 1:
            raise DataError(
                f"row {row.row_id}: the chat template of {self.model_dir.name} writes earlier turns otherwise once "
                f"later turns follow, so its replies need {len(rendered)} renderings; take train_rows."
            )
        return rendered[0]

    def train_rows(self, row: Row, instruction: str | None = None) -> list[RenderedRow]:
        """The row as often as its replies need: once, or where the template rewrites earlier turns once a stretch.

        Raises:
            DataError: the row has no reply, or its reply does not survive the template and back.
        """
        rendered = self._render([row], instruction)[0]
        if isinstance(rendered, DataError):
            raise rendered
        return rendered

    def render_rows(self, rows: Sequence[Row], *, max_row_tokens: int, instruction: str | None = None) -> RenderedRows:
        """Render all rows as one batch; those that cannot be trained on are dropped with a reason.

        Raises:
            ModelError: the template writes the start of text twice, or does not end a reply.
        """
        kept: list[RenderedRow] = []
        problems: dict[str, RowProblem] = {}
        for row, rendered in zip(rows, self._render(rows, instruction), strict=True):
            if isinstance(rendered, RowProblem):
                problems[row.row_id] = rendered
            elif (longest := max(len(each.tokens) for each in rendered)) > max_row_tokens:
                found = f"row {row.row_id}: {longest} tokens"
                sentence = f"{found}, more than tune.max_row_tokens = {max_row_tokens}."
                problems[row.row_id] = RowProblem(sentence, "too_many_tokens")
            else:
                kept += rendered
        if problems:
            first = " ".join(str(problem) for problem in list(problems.values())[:5])
            log.info("%d of %d rows cannot be trained on; the first: %s", len(problems), len(rows), first)
        return RenderedRows(
            kept=kept,
            dropped={row_id: problem.code for row_id, problem in problems.items()},
            sentences={row_id: str(problem) for row_id, problem in problems.items()},
            num_read=len(rows),
        )

    def _render(self, rows: Sequence[Row], instruction: str | None) -> list[list[RenderedRow] | RowProblem]:
        """Every row rendered and checked, or what is wrong with it."""
        plans: list[list[_Plan] | RowProblem] = []
        for row in rows:
            try:
                plans.append(self._plans(row, instruction))
            except RowProblem as problem:
                plans.append(problem)
            except DataError as err:
                plans.append(RowProblem(f"row {row.row_id}: {err}", "template_refuses"))
        # One batch for all texts: the tokenizer's own threads share the work.
        texts = [text for each in plans if isinstance(each, list) for plan in each for text in plan.texts]
        try:
            encoded: Iterator[list[int]] | None = iter(self.template.encode(texts))
        except DataError:  # one text in the batch: encode row by row, so that only that row is lost
            encoded = None
        return [each if isinstance(each, RowProblem) else self._masks(each, encoded) for each in plans]

    def _masks(self, plans: list[_Plan], encoded: Iterator[list[int]] | None) -> list[RenderedRow] | RowProblem:
        """The renderings of one row; its texts are the next of `encoded`, or are encoded now."""
        taken = [list(islice(encoded, len(plan.texts))) for plan in plans] if encoded is not None else []
        try:
            taken = taken or [self.template.encode(plan.texts) for plan in plans]
            return [self._mask(plan, ids) for plan, ids in zip(plans, taken, strict=True)]
        except RowProblem as problem:
            return problem
        except DataError as err:
            return RowProblem(f"row {plans[0].row_id}: {err}", "template_refuses")

    def _plans(self, row: Row, instruction: str | None) -> list[_Plan]:
        """The conversation, and where replies do not stand in it, also the conversations that end with them."""
        messages = self.fitted(with_instruction(training_messages(row), instruction))
        left = trained_turns(row.row_id, messages)
        plans: list[_Plan] = []
        while left or not plans:
            part = messages[: left[-1] + 1] if plans else messages
            plan, rest = self._plan(row, part, left)
            if rest and rest[-1] + 1 == len(part):
                raise RowProblem(
                    f"row {row.row_id}: the chat template of {self.model_dir.name} writes the reply of message "
                    f"{rest[-1]} otherwise than it opens one, so what is trained would not be what is prompted. A "
                    "reply with reasoning (<think>) needs a renderer with thinking, and one without needs one without."
                )
            plans.append(plan)
            left = rest
        return [plan for plan in reversed(plans) if plan.replies or len(plans) == 1]

    def _plan(self, row: Row, messages: Sequence[Message], turns: list[int]) -> tuple[_Plan, list[int]]:
        """The texts to tokenise, the conversation and the prompt of each reply that stands in it; the other turns."""
        whole = Conversation(messages, row.tools)
        text = self.template.text(whole)
        self._turns.require_shown(self.template, whole, text)
        replies, rest = [], []
        for turn in turns:
            prompt = self.template.text(Conversation(messages[:turn], row.tools, True))
            so_far = messages[: turn + 1]
            up_to = text if len(so_far) == len(messages) else self.template.text(Conversation(so_far, row.tools))
            if text.startswith(up_to) and up_to.startswith(prompt):
                replies.append(_Reply(messages[turn], prompt, up_to[len(prompt) :]))
            else:
                rest.append(turn)
        return _Plan(row.row_id, text, replies), rest

    def _mask(self, plan: _Plan, encoded: list[list[int]]) -> RenderedRow:
        """Find every trained turn in the tokens and check that it reads back as the message."""
        tokens, prompts = encoded[0], encoded[1:]
        where = f"row {plan.row_id}"
        self._turns.require_one_start(tokens, where=where)
        weight = [0.0] * len(tokens)
        for reply, prompt in zip(plan.replies, prompts, strict=True):
            start, said = len(prompt), reply.message.content[:40]
            if tokens[:start] != prompt:
                raise RowProblem(
                    f"{where}: the reply {said!r} merges with the prompt into other tokens than the "
                    "model is prompted with; remove the white space at its start."
                )
            end = next((i for i in range(start, len(tokens)) if tokens[i] in self.stop_ids), None)
            if end is None:
                raise ModelError(f"{where}: the template did not end the reply with {self.end_of_turn!r}.")
            read = self.parse(tokens[start : end + 1])
            if not _reads_back(reply, read):
                raise RowProblem(
                    f"{where}: the reply {said!r} reads back as {read[:40]!r} after the chat template "
                    "and tokenizer; the model would learn another text."
                )
            weight[start : end + 1] = [1.0] * (end + 1 - start)
        rendered = RenderedRow(plan.row_id, tokens, weight)
        if rendered.num_trained == 0:
            raise RowProblem(f"{where}: no assistant turn is trained; expected one.", "no_trained_tokens")
        return rendered


@dataclass(frozen=True, slots=True)
class _Reply:
    """One trained reply and where it stands."""

    message: Message
    prompt_text: str
    text: str
    """What the template writes after the prompt, to the end of this turn."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """One rendering of a row between template and tokenizer."""

    row_id: str
    text: str
    replies: list[_Reply]

    @property
    def texts(self) -> list[str]:
        return [self.text, *(reply.prompt_text for reply in self.replies)]


def _reads_back(reply: _Reply, read: str) -> bool:
    """Whether the parsed reply says what the message says; templates may trim white space at ends and around tags."""
    message, read = reply.message, _trimmed(read)
    if message.tool_calls:  # calls are written in the template's own words, beside the content, within this turn
        written = _trimmed(unmarked(reply.text))
        return (
            _trimmed(message.content) in read
            and all(call.name in read for call in message.tool_calls)
            and read in written
        )
    return says_the_same(read, message.content)


def says_the_same(read: str, written: str) -> bool:
    """Whether two texts differ at most in white space at their ends and at reasoning tags."""
    return _trimmed(read) == _trimmed(written)


def _trimmed(text: str) -> str:
    return _THINK_TAG.sub(r"\1", text).strip()
