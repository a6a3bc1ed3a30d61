r"""Rows to tokens and back: what a model is prompted with, which tokens are trained, what a reply says.

    >>> renderer = Renderer(base.dir)  # doctest: +SKIP
    >>> rendered = renderer.train_row(row)  # doctest: +SKIP
    >>> show(renderer, rendered)  # doctest: +SKIP
    [("<|im_start|>user\nWhere is 4411?<|im_end|>\n<|im_start|>assistant\n", False),
     ("It left on Monday.<|im_end|>", True), ("\n", False)]

Trained are the content and the end-of-turn token of assistant turns (those not marked `train=false`);
nothing else ever is. Rows that are too long are dropped and counted, never cut. Every row is checked
as it is rendered; `metier.render.invariants` checks the same by a second, slower road.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from metier.core.errors import DataError, ModelError
from metier.core.hashing import file_sha256, sha256_hex, value_hash
from metier.core.rows import Message, Role, Row, TargetKind
from metier.render.template import ChatTemplate, Conversation, Tools
from metier.render.turns import Turns, probe_turns

__all__ = ["RenderedRow", "RenderedRows", "Renderer", "training_messages", "trained_turns", "with_instruction"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RenderedRow:
    """One row as a model is trained on it."""

    row_id: str
    """The row's id."""
    tokens: list[int]
    """The template's own tokens of the whole conversation."""
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
    """In the order of the input."""
    dropped: dict[str, str]
    """Reason code by row id: too_many_tokens, no_trained_tokens, reply_unreadable, template_refuses."""
    sentences: dict[str, str]
    """The reason in words, by row id."""
    num_read: int
    """Rows given; kept + dropped, where a row id given twice counts twice."""


class _RowProblem(DataError):
    """A row that cannot be trained on, with its reason code; caught by `render_rows`."""

    code = "reply_unreadable"

    def __init__(self, sentence: str, code: str = "reply_unreadable") -> None:
        super().__init__(sentence)
        self.code = code


class Renderer:
    """Renders conversations with the template of one model folder."""

    def __init__(self, model_dir: Path) -> None:
        """Read the tokenizer and template, and learn from a probe how a reply ends.

        Raises:
            ModelError: there is no template, or replies cannot be told from prompts in what it writes.
        """
        self.model_dir = model_dir
        self.template = ChatTemplate(model_dir)
        self._turns: Turns = probe_turns(self.template, model_dir)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the tokenizer and template in use: training and scoring must name the same one."""
        return value_hash([self.template.tokenizer.chat_template, file_sha256(self.model_dir / "tokenizer.json")])

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
            opened = prompt._replace(open_reply=True)
            texts.append(self.template.text(opened))
            self._turns.require_shown(self.template, opened, texts[-1])
        return self.template.encode(texts)

    def parse(self, tokens: Sequence[int]) -> str:
        """The reply text of sampled tokens: up to the end of turn, which is left out."""
        end = next((i for i, token in enumerate(tokens) if token in self.stop_ids), len(tokens))
        return self.template.decode(tokens[:end])

    def train_row(self, row: Row, instruction: str | None = None) -> RenderedRow:
        """The row's tokens and which of them are trained.

        Raises:
            DataError: the row has no reply, or its reply does not survive the template and back.
            ModelError: the template rewrites earlier turns when a turn is added.
        """
        rendered = self._render([row], instruction)[0]
        if isinstance(rendered, DataError):
            raise rendered
        return rendered

    def render_rows(self, rows: Sequence[Row], *, max_row_tokens: int, instruction: str | None = None) -> RenderedRows:
        """Render all rows as one batch; those that cannot be trained on are dropped with a reason.

        Raises:
            ModelError: the template rewrites earlier turns when a turn is added.
        """
        kept: list[RenderedRow] = []
        problems: dict[str, _RowProblem] = {}
        for row, rendered in zip(rows, self._render(rows, instruction), strict=True):
            if isinstance(rendered, _RowProblem):
                problems[row.row_id] = rendered
            elif len(rendered.tokens) > max_row_tokens:
                found = f"row {row.row_id}: {len(rendered.tokens)} tokens"
                sentence = f"{found}, more than tune.max_row_tokens = {max_row_tokens}."
                problems[row.row_id] = _RowProblem(sentence, "too_many_tokens")
            else:
                kept.append(rendered)
        if problems:
            first = " ".join(str(problem) for problem in list(problems.values())[:5])
            log.info("%d of %d rows cannot be trained on; the first: %s", len(problems), len(rows), first)
        return RenderedRows(
            kept=kept,
            dropped={row_id: problem.code for row_id, problem in problems.items()},
            sentences={row_id: str(problem) for row_id, problem in problems.items()},
            num_read=len(rows),
        )

    def _render(self, rows: Sequence[Row], instruction: str | None) -> list[RenderedRow | _RowProblem]:
        """Every row rendered and checked, or what is wrong with it."""
        plans: list[_Plan | _RowProblem] = []
        for row in rows:
            try:
                plans.append(self._plan(row, instruction))
            except _RowProblem as problem:
                plans.append(problem)
            except DataError as err:
                plans.append(_RowProblem(f"row {row.row_id}: {err}", "template_refuses"))
        good = [plan for plan in plans if isinstance(plan, _Plan)]
        # One batch for all texts: the tokenizer's own threads share the work.
        texts = [text for plan in good for text in (plan.text, *plan.prompt_texts)]
        try:
            encoded = iter(self.template.encode(texts))
        except DataError:  # one text in the batch: render row by row, so that only that row is lost
            return [self._mask_alone(plan) for plan in plans]
        return [
            plan if isinstance(plan, _RowProblem) else self._mask(plan, [next(encoded) for _ in plan.texts])
            for plan in plans
        ]

    def _mask_alone(self, plan: _Plan | _RowProblem) -> RenderedRow | _RowProblem:
        if isinstance(plan, _RowProblem):
            return plan
        try:
            return self._mask(plan, self.template.encode(plan.texts))
        except DataError as err:
            return _RowProblem(f"row {plan.row_id}: {err}", "template_refuses")

    def _plan(self, row: Row, instruction: str | None) -> _Plan:
        """The texts to tokenise: the whole conversation, and the prompt of every trained turn."""
        messages = with_instruction(training_messages(row), instruction)
        whole = Conversation(messages, row.tools)
        text = self.template.text(whole)
        self._turns.require_shown(self.template, whole, text)
        turns = trained_turns(row.row_id, messages)
        prompt_texts = [self.template.text(Conversation(messages[:turn], row.tools, True)) for turn in turns]
        for turn, prompt_text in zip(turns, prompt_texts, strict=True):
            so_far = messages[: turn + 1]
            stands = len(so_far) == len(messages) or text.startswith(
                self.template.text(Conversation(so_far, row.tools))
            )
            if not stands or not text.startswith(prompt_text):
                raise ModelError(
                    f"row {row.row_id}: the chat template of {self.model_dir.name} writes the turns up to message "
                    f"{turn} otherwise once later turns follow, so what is trained would not be what is prompted. "
                    "Train on the last turn only (one row a reply), or use a base model whose template does not."
                )
        return _Plan(row.row_id, text, prompt_texts, [messages[turn] for turn in turns])

    def _mask(self, plan: _Plan, encoded: list[list[int]]) -> RenderedRow | _RowProblem:
        """Find every trained turn in the tokens and check that it reads back as the message."""
        tokens, prompts = encoded[0], encoded[1:]
        where = f"row {plan.row_id}"
        self._turns.require_one_start(tokens, where=where)
        weight = [0.0] * len(tokens)
        for message, prompt in zip(plan.replies, prompts, strict=True):
            start = len(prompt)
            if tokens[:start] != prompt:
                return _RowProblem(
                    f"{where}: the reply {message.content[:40]!r} merges with the prompt into other tokens than the "
                    "model is prompted with; remove the white space at its start."
                )
            end = next((i for i in range(start, len(tokens)) if tokens[i] == self._turns.end_id), None)
            if end is None:
                raise ModelError(f"{where}: the template did not end the reply with {self.end_of_turn!r}.")
            read = self.parse(tokens[start : end + 1])
            if not _reads_back(message, read):
                return _RowProblem(
                    f"{where}: the reply {message.content[:40]!r} reads back as {read[:40]!r} after the chat template "
                    "and tokenizer; the model would learn another text."
                )
            weight[start : end + 1] = [1.0] * (end + 1 - start)
        rendered = RenderedRow(plan.row_id, tokens, weight)
        if rendered.num_trained == 0:
            return _RowProblem(f"{where}: no assistant turn is trained; expected one.", "no_trained_tokens")
        return rendered


@dataclass(frozen=True, slots=True)
class _Plan:
    """One row between template and tokenizer."""

    row_id: str
    text: str
    prompt_texts: list[str]
    replies: list[Message]

    @property
    def texts(self) -> list[str]:
        return [self.text, *self.prompt_texts]


def with_instruction(messages: Sequence[Message], instruction: str | None) -> tuple[Message, ...]:
    """The messages with the instruction as system message in front; a standing one follows it in the same message."""
    if not instruction:
        return tuple(messages)
    if messages and messages[0].role is Role.SYSTEM:
        merged = messages[0].model_copy(update={"content": f"{instruction}\n\n{messages[0].content}"})
        return (merged, *messages[1:])
    return (Message(role=Role.SYSTEM, content=instruction), *messages)


def training_messages(row: Row) -> tuple[Message, ...]:
    """The conversation a row trains on: as it stands, or its prompt and gold where the gold lies in the target.

    Raises:
        DataError: the row has no reply to learn.
    """
    if row.target.kind is TargetKind.REPLY:
        last = row.messages[-1] if row.messages else None
        if last is None or last.role is not Role.ASSISTANT:
            found = "no messages" if last is None else f"a last message of role {last.role.value}"
            raise _RowProblem(
                f"row {row.row_id}: {found}; expected an assistant message to learn.", "no_trained_tokens"
            )
        return row.messages
    if not row.gold:
        raise _RowProblem(
            f"row {row.row_id}: its target of kind {row.target.kind.value} is empty; expected a text to learn.",
            "no_trained_tokens",
        )
    return (*row.prompt, Message(role=Role.ASSISTANT, content=row.gold))


def trained_turns(row_id: str, messages: Sequence[Message]) -> list[int]:
    """Places of the assistant messages that are trained: all but those marked `train=false`.

    An assistant message before any user or tool message answers nothing; it is trained only when
    asked for, and then refused.

    Raises:
        DataError: such a message is marked `train=true`.
    """
    turns = []
    asked = False
    for place, message in enumerate(messages):
        asked = asked or message.role in (Role.USER, Role.TOOL)
        if message.role is not Role.ASSISTANT or message.train is False:
            continue
        if not asked:
            if message.train:
                raise _RowProblem(
                    f"row {row_id}: message {place} is marked train=true but answers nothing; expected a user message "
                    "before it."
                )
            continue
        turns.append(place)
    return turns


def _reads_back(message: Message, read: str) -> bool:
    """Whether the parsed reply says what the message says; templates may trim white space at its ends."""
    if message.tool_calls:  # calls are written in the template's own words, beside the content
        return message.content.strip() in read and all(call.name in read for call in message.tool_calls)
    return read in (message.content, message.content.strip()) or read.strip() == message.content.strip()
