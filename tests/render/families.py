"""Chat templates of published model families on a tokenizer with one token a byte.

The templates (`templates/`) are written for these tests; what they write is each family's published format, the
prose around tools aside. Tokenizers that put a start of text in front by themselves do so here too, so that a
template which writes one as well would double it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from metier.core.folders import write_bytes, write_json
from metier.render import RenderedRow, Renderer

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family's control words."""

    control: tuple[str, ...]
    eos: str
    bos: str | None = None
    words: tuple[str, ...] = ()
    """Words with a token of their own that are no control tokens."""
    generation_eos: tuple[str, ...] = ()
    """What the model's own generation settings name as ends."""


CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
FAMILIES = {
    "smollm2": Family(control=CHATML, eos="<|im_end|>", bos="<|im_start|>"),
    "llama3": Family(
        control=(
            "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
            "<|eom_id|>", "<|python_tag|>",
        ),
        eos="<|eot_id|>",
        bos="<|begin_of_text|>",
        generation_eos=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
    ),
    "qwen3": Family(
        control=CHATML,
        eos="<|im_end|>",
        words=("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
    ),
    "mistral_v3": Family(
        control=(
            "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
            "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
        ),
        eos="</s>",
        bos="<s>",
    ),
    "mistral_v7": Family(
        control=("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"), eos="</s>", bos="<s>"
    ),
    "gemma": Family(
        control=("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"), eos="<eos>", bos="<bos>"
    ),
}  # fmt: skip


def family_dir(name: str, folder: Path, *, template: str | None = None) -> Path:
    """A model folder as far as rendering needs one; `template` in place of the family's own."""
    family = FAMILIES[name]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: number for number, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in family.control])
    tokenizer.add_tokens([AddedToken(word, special=False, normalized=False) for word in family.words])
    if family.bos and name != "smollm2":
        start = (family.bos, tokenizer.token_to_id(family.bos))
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{family.bos} $A", special_tokens=[start])
    folder.mkdir(parents=True)
    write_bytes(folder / "tokenizer.json", tokenizer.to_str().encode())
    named = {"bos_token": family.bos, "eos_token": family.eos}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **named}
    write_json(folder / "tokenizer_config.json", {key: value for key, value in settings.items() if value is not None})
    if family.generation_eos:
        ends = [tokenizer.token_to_id(word) for word in family.generation_eos]
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    text = template or (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    write_bytes(folder / "chat_template.jinja", text.encode())
    return folder


def spelled(name: str, renderer: Renderer, pieces: list[tuple[str, int]]) -> RenderedRow:
    """The tokens of a text by the vocabulary alone, its control words included, with a weight for each piece."""
    family, vocab = FAMILIES[name], renderer.template.tokenizer.get_vocab()
    letters = {byte: letter for letter, byte in zip(*_byte_letters(), strict=True)}
    words = "|".join(map(re.escape, sorted((*family.control, *family.words), key=len, reverse=True)))
    tokens: list[int] = []
    weight: list[float] = []
    for text, trained in pieces:
        for part in re.split(f"({words})", text):
            is_word = part in family.control or part in family.words
            tokens += [vocab[part]] if is_word else [vocab[letters[byte]] for byte in part.encode()]
        weight += [float(trained)] * (len(tokens) - len(weight))
    return RenderedRow("", tokens, weight)


def _byte_letters() -> tuple[list[str], list[int]]:
    """GPT-2's letter of every byte: printable ones stand for themselves, the others from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(0x100 + place) for place in range(len(others))], [*plain, *others]
