"""The reference table against published figures, worked by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from metier.core.errors import ConfigError
from metier.tune.cost_table import (
    CostRow,
    Workload,
    _table,
    activations,
    cost_rows,
    hours_of,
    processor_gib,
    shape_of,
    weights_gib,
)  # fmt: skip
from metier.tune.memory import base_weights

ROOT = Path(__file__).resolve().parents[2]


def test_activations_of_llama_3_8b_at_32k_are_seven_eight_and_fifteen_and_two_thirds_gib() -> None:
    # 28 x 2 x 32,768 x 4,096; 2 x 32 x 32,768 x 4,096; 4 x 32,768 x 128,256 bytes.
    found = activations(shape_of("Llama-3.1-8B"), tokens=32_768, factor=28, logit_tokens=32_768)
    assert tuple(found) == pytest.approx((7.00, 8.00, 15.66), abs=0.005)


@pytest.mark.parametrize(
    ("base", "billions"),
    [
        ("SmolLM2-135M", 0.1345), ("SmolLM2-360M", 0.3618), ("SmolLM2-1.7B", 1.7114), ("Qwen2.5-0.5B", 0.494),
        ("Qwen3-0.6B", 0.596), ("Qwen3-4B", 4.022), ("Qwen3-8B", 8.191), ("Qwen3-14B", 14.768), ("Llama-3.2-1B", 1.2358),
        ("Llama-3.2-3B", 3.2127), ("Llama-3.1-8B", 8.0303), ("Llama-3.3-70B", 70.5537), ("Mistral-7B-v0.3", 7.248),
        ("Qwen2.5-7B", 7.6156), ("Qwen2.5-32B", 32.7639), ("Gemma-2-2B", 2.6143),
    ],
)  # fmt: skip
def test_the_weights_of_a_base_are_those_its_makers_state(base: str, billions: float) -> None:
    # Biases and the norms of q and k are not counted: under a thousandth.
    assert base_weights(shape_of(base)) / 1e9 == pytest.approx(billions, rel=0.002)


def test_full_tuning_takes_18_bytes_a_weight_and_adapters_two_and_their_own() -> None:
    shape = shape_of("Llama-3.1-8B")
    assert weights_gib(shape, "full") == pytest.approx(18 * 8.0303e9 / 2**30, rel=1e-3)
    # Rank 16 on all linear layers of 32 blocks: 16 x 32 x (8192 + 5120 + 5120 + 8192 + 3 x 18432) = 41,943,040.
    assert weights_gib(shape, "lora") == pytest.approx((2 * 8.0303e9 + 18 * 41_943_040) / 2**30, rel=1e-3)
    assert weights_gib(shape, "qlora") < 0.45 * weights_gib(shape, "lora") < weights_gib(shape, "dora")


def test_a_published_70b_run_lies_within_the_formula() -> None:
    # MLPerf v4.1, Llama-2-70B with LoRA on 8 H100: 27.9 minutes for about 3,072 rows of 8,192 tokens, in fp8 (peak
    # 1,979 TFLOP/s a device): the share of the peak it reached must be one that is known to be reached.
    run = Workload(num_rows=3072, row_tokens=8192, passes=1)
    at_peak = 60 * hours_of(shape_of("Llama-3.3-70B"), "lora", run, tflops=8 * 1979)
    assert 0.3 < at_peak / 27.9 < 0.5


def test_what_fits_follows_from_memory_and_more_devices_take_larger_bases() -> None:
    def fitting(base: str, method: str) -> set[str]:
        return {row.device for row in cost_rows(bases=[base], methods=[method]) if row.fits}

    assert "RTX 4090" in fitting("Llama-3.1-8B", "qlora")
    assert "RTX 4090" in fitting("Llama-3.1-8B", "lora") or "A100 40 GB" in fitting("Llama-3.1-8B", "lora")
    assert fitting("Llama-3.3-70B", "lora") == {"8 x H100"}
    assert "H100" in fitting("Llama-3.3-70B", "qlora")
    assert not fitting("Llama-3.3-70B", "full")
    assert "2 CPU cores, AVX512-bf16" in fitting("SmolLM2-135M", "lora")


def test_a_processor_takes_what_the_engine_itself_counts_and_no_quantised_base() -> None:
    cpu = "2 CPU cores, AVX512-bf16"

    def row(base: str, method: str) -> CostRow:
        (found,) = cost_rows(bases=[base], methods=[method], devices=[cpu])
        return found

    # bf16, two workers: 2 of the product copy and 20 of masters, moments and gradients, before activations.
    assert row("Qwen2.5-0.5B", "full").gib > 22 * 0.494e9 / 2**30
    assert not row("Qwen3-1.7B", "full").fits
    assert not row("SmolLM2-135M", "qlora").fits and row("SmolLM2-135M", "lora").fits
    shape, work = shape_of("SmolLM2-360M"), Workload()
    kept, again = (processor_gib(shape, "lora", work, cores=2, recomputes=on) for on in (False, True))
    assert again < kept == row("SmolLM2-360M", "lora").gib
    assert row("SmolLM2-360M", "lora").hours == hours_of(shape, "lora", work, tflops=0.4 * 0.4, recomputes=False)


def test_a_processor_computes_again_what_it_cannot_keep_and_its_hours_say_so() -> None:
    shape, work = shape_of("Qwen3-1.7B"), Workload(row_tokens=8000, num_rows=50)
    (row,) = cost_rows(bases=["Qwen3-1.7B"], methods=["lora"], devices=["2 CPU cores, AVX512-bf16"], work=work)
    assert processor_gib(shape, "lora", work, cores=2, recomputes=False) > 16e9 / 2**30
    assert row.gib == processor_gib(shape, "lora", work, cores=2, recomputes=True)
    assert row.hours == hours_of(shape, "lora", work, tflops=0.4 * 0.4, recomputes=True)


def test_magnitudes_are_one_for_every_output() -> None:
    # 32 blocks of 4096 + 1024 + 1024 + 4096 + 2 x 14336 + 4096 outputs.
    shape = shape_of("Llama-3.1-8B")
    more = (weights_gib(shape, "dora") - weights_gib(shape, "lora")) * 2**30 / 18
    assert more == pytest.approx(32 * 43_008, rel=1e-3)


def test_moments_in_8_bits_save_six_bytes_a_weight_and_need_an_accelerator() -> None:
    shape = shape_of("Llama-3.1-8B")
    saved = (weights_gib(shape, "full") - weights_gib(shape, "full-8bit")) * 2**30 / base_weights(shape)
    assert saved == pytest.approx(6 - 8 / 256)
    fits = {row.device for row in cost_rows(bases=["SmolLM2-135M"], methods=["full-8bit"]) if row.fits}
    assert "H100" in fits and not any("CPU" in device for device in fits)


def test_money_is_hours_times_devices_times_the_dated_price() -> None:
    (row,) = cost_rows(bases=["Qwen3-8B"], methods=["lora"], devices=["8 x H100"])
    assert (row.low, row.high) == pytest.approx((row.hours * 8 * 1.29, row.hours * 8 * 2.95))
    assert all(price["date"] and price["source"] for price in _table("prices")["price"].values())


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no base 'Qwen3-8'; did you mean 'Qwen3-8B'"):
        cost_rows(bases=["Qwen3-8"])
    with pytest.raises(ConfigError, match="no device 'H101'"):
        cost_rows(devices=["H101"])


def test_the_page_is_what_the_tables_give() -> None:
    done = subprocess.run([sys.executable, "checks/cost_table.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
