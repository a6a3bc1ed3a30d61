r"""The chat template of a model: messages to text, and text to tokens in which only the template speaks control.

A message may contain the very words a template uses for control, such as ``<|im_end|>``. Tokenised
naively they become the control token, and a customer's text ends its own turn. Here they stay text::

    template text   <|im_start|>user\nwhat does <|im_end|> mean<|im_end|>\n
    tokens          [control] user \n what does < | im _ end | > mean [control] \n

How: such words are broken by a mark before the template runs, the rendered text is cut at the control
tokens the template itself wrote, and the pieces between are tokenised without control tokens.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metier.core.errors import DataError, ModelError
from metier.core.rows import Message

__all__ = ["ChatTemplate", "Conversation", "template_message", "unmarked"]

# A noncharacter of Unicode: never assigned, never in exchanged text.
_MARK = "\ufdd0"

TEMPLATE_DATE = "26 Jul 2024"
"""The day Llama 3.1 writes by default; its successors write today's, and tokens would change over night."""

_NOT_KEPT = (
    "a message contains a control word of this model, and its tokenizer cannot keep it as text; remove the word "
    "from the message."
)

Tools = Sequence[Mapping[str, Any]]


class Conversation(NamedTuple):
    """What a template is asked to render."""

    messages: Sequence[Message]
    tools: Tools = ()
    open_reply: bool = False
    """Whether an assistant turn is opened at the end (the generation prompt)."""


class ChatTemplate:
    """A tokenizer with its chat template, read from a model folder; runs no code of the model.

    `switches` is what every call of the template is given beside messages and tools; it takes those it knows.
    """

    def __init__(self, model_dir: Path, *, thinking: bool = False) -> None:
        """Read the tokenizer and template.

        Raises:
            ModelError: the folder holds no fast tokenizer or no chat template.
        """
        self.switches: dict[str, Any] = {"enable_thinking": thinking, "date_string": TEMPLATE_DATE}
        self.tokenizer: Any = _load_tokenizer(model_dir)  # Any: transformers' auto classes are untyped
        backend = self.tokenizer.backend_tokenizer
        added = backend.get_added_tokens_decoder()
        self.control_ids: frozenset[int] = frozenset(number for number, token in added.items() if token.special)
        """Ids no message text may turn into."""
        self.control_words: dict[str, int] = {token.content: n for n, token in added.items() if token.special}
        self._control_pattern = re.compile(
            "|".join(re.escape(word) for word in sorted(self.control_words, key=len, reverse=True)) or r"(?!)"
        )
        # A control token that swallows spaces or hides inside words is cut by rules a pattern does not know.
        self._plain_cuts = not any(t.lstrip or t.rstrip or t.single_word for t in added.values() if t.special)
        self._literal: Any = None  # Any: the Rust tokenizer is untyped
        self._literal_lock = threading.Lock()

    def text(self, conversation: Conversation) -> str:
        """The conversation as the template writes it; control words inside messages carry a mark.

        Raises:
            DataError: the template refuses the conversation (roles that do not alternate, no system turn).
        """
        from jinja2 import TemplateError

        messages = [template_message(message) for message in conversation.messages]
        tools = [dict(tool) for tool in conversation.tools] or None
        if self._holds_control(messages) or self._holds_control(tools):
            messages, tools = self._marked(messages), self._marked(tools)
        try:
            text = self.tokenizer.apply_chat_template(
                messages,
                tools=tools,
                tokenize=False,
                add_generation_prompt=conversation.open_reply,
                **self.switches,
            )
        except TemplateError as err:
            raise DataError(f"the chat template refuses the conversation: {err}") from err
        return str(text)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of rendered texts, as one batch.

        Raises:
            DataError: a text holds control words inside messages and this tokenizer cannot keep them text.
        """
        backend = self.tokenizer.backend_tokenizer
        plain = [text for text in texts if _MARK not in text]
        plain_ids = iter([encoding.ids for encoding in backend.encode_batch_fast(plain, add_special_tokens=False)])
        return [next(plain_ids) if _MARK not in text else self._encode_marked(text) for text in texts]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, control tokens spelled out, nothing tidied."""
        text = self.tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text)

    def holds_control_words(self, conversation: Conversation) -> bool:
        """Whether a control word of this tokenizer occurs inside a message or tool."""
        messages = [template_message(message) for message in conversation.messages]
        return self._holds_control(messages) or self._holds_control(list(conversation.tools))

    def _encode_marked(self, text: str) -> list[int]:
        literal = self._literal_tokenizer()
        tokens: list[int] = []
        for piece, control_id in self._pieces(text):
            ids = literal.encode(piece.replace(_MARK, ""), add_special_tokens=False).ids
            if not self.control_ids.isdisjoint(ids):
                raise DataError(_NOT_KEPT)
            tokens += ids if control_id is None else [*ids, control_id]
        return tokens

    def _pieces(self, text: str) -> Iterator[tuple[str, int | None]]:
        """The text cut at control words: what stands before each, with its id; the rest with None."""
        position = 0
        for match in self._control_pattern.finditer(text):
            yield text[position : match.start()], self.control_words[match[0]]
            position = match.end()
        yield text[position:], None

    def _literal_tokenizer(self) -> Any:  # Any: the Rust tokenizer is untyped
        """A copy of the tokenizer for which control words are text; made on first need.

        A copy, because the switch is not safe to flip under other threads that encode.
        """
        from tokenizers import Tokenizer

        with self._literal_lock:
            if self._literal is None:
                backend = self.tokenizer.backend_tokenizer
                literal = Tokenizer.from_str(backend.to_str())
                literal.encode_special_tokens = True
                # Cutting first must give the tokens of the whole text; it does not where a tokenizer treats
                # the first piece of a text otherwise than the next ones.
                probe = next(iter(self.control_words), "").join((" a b", "\n\n c 1", "d "))
                cut: list[int] = []
                for piece, control_id in self._pieces(probe):
                    ids = literal.encode(piece, add_special_tokens=False).ids
                    cut += ids if control_id is None else [*ids, control_id]
                self._plain_cuts &= cut == backend.encode(probe, add_special_tokens=False).ids
                self._literal = literal
        if not self._plain_cuts:
            raise DataError(_NOT_KEPT)
        return self._literal

    def shows(self, text: str, content: str) -> bool:
        """Whether a rendered text holds a message's content, white space at its ends aside."""
        return content.strip() in unmarked(text)

    def _holds_control(self, value: Any) -> bool:  # Any: nested JSON
        if isinstance(value, str):
            return _MARK in value or self._control_pattern.search(value) is not None
        if isinstance(value, Mapping):
            return any(self._holds_control(key) or self._holds_control(item) for key, item in value.items())
        if isinstance(value, (list, tuple)):
            return any(self._holds_control(item) for item in value)
        return False

    def _marked(self, value: Any) -> Any:  # Any: nested JSON
        """The value with a mark after the first character of every control word in it."""
        if isinstance(value, str):
            if _MARK in value:
                raise DataError("a message contains U+FDD0, which is no character; remove it.")
            return self._control_pattern.sub(lambda match: match[0][0] + _MARK + match[0][1:], value)
        if isinstance(value, Mapping):
            return {self._marked(key): self._marked(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._marked(item) for item in value]
        return value


def unmarked(text: str) -> str:
    """A rendered text without the marks inside control words of messages."""
    return text.replace(_MARK, "") if _MARK in text else text


def _load_tokenizer(model_dir: Path) -> Any:  # Any: transformers' auto classes are untyped
    from transformers import AutoTokenizer

    if not (model_dir / "tokenizer.json").is_file():
        raise ModelError(f"{model_dir}: there is no tokenizer.json; expected the folder of a base model.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as err:
        raise ModelError(f"{model_dir}: the tokenizer could not be read: {err}. Fetch the model again.") from err
    if not tokenizer.chat_template:
        raise ModelError(f"{model_dir}: the tokenizer has no chat template; use the instruct version of the model.")
    return tokenizer


def template_message(message: Message) -> dict[str, Any]:
    """A message in the spelling chat templates expect (OpenAI's)."""
    entry: dict[str, Any] = {"role": message.role.value, "content": message.content}
    if message.name is not None:
        entry["name"] = message.name
    if message.tool_call_id is not None:
        entry["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        entry["tool_calls"] = [
            {"type": "function", "id": call.id, "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return entry
