"""Which servers load what: one case per rule, worked by hand from the servers' own limits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from metier.tune.servability import BREAKS, Servable, TunedForm, _rules, servability

LORA = TunedForm(method="lora", rank=16)


def answers(form: TunedForm) -> dict[str, Servable]:
    return {found.server: found for found in servability(form)}


def test_plain_adapters_are_served_and_the_needed_option_is_named() -> None:
    found = answers(replace(LORA, rank=24))
    assert found["vLLM"].can_serve and "--max-lora-rank 32" in found["vLLM"].change
    assert found["llama.cpp"].can_serve and "convert_lora_to_gguf.py" in found["llama.cpp"].change


@pytest.mark.parametrize(
    ("form", "vllm", "llama_cpp", "said"),
    [
        (replace(LORA, method="dora"), False, False, "use_dora"),
        (replace(LORA, method="rslora"), True, False, "rank 16"),
        (replace(LORA, rank=513), False, True, "a rank above it is refused"),
        (replace(LORA, rank=512), True, True, "rank 512"),
        (replace(LORA, modules_to_save=("lm_head",)), False, False, "modules_to_save"),
        (replace(LORA, num_new_tokens=2), False, False, "tokens added"),
        (TunedForm(method="full"), True, True, "whole model"),
    ],
)
def test_what_a_server_refuses_is_said_with_the_reason_and_the_change(
    form: TunedForm, vllm: bool, llama_cpp: bool, said: str
) -> None:
    found = answers(form)
    assert (found["vLLM"].can_serve, found["llama.cpp"].can_serve) == (vllm, llama_cpp)
    assert said in found["vLLM"].why
    assert all(one.can_serve or one.change for one in found.values())


def test_every_rule_has_a_check_a_source_and_a_date() -> None:
    for rule in _rules():
        assert rule["limit"] in BREAKS
        assert rule["source"] and rule["date"] > "2024"
