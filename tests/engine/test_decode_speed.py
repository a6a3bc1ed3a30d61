"""The decoding benchmark runs, and its comparison is between equal replies."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "decode_speed.py"


def benchmark() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("decode_speed", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_quick_benchmark_compares_equal_fp32_replies(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        arguments = ["--quick", "--pairs", "1", "--threads", "1", "--dtype", "fp32", "--json"]
        assert benchmark().main(arguments) == 0
    finally:
        torch.set_num_threads(before)
    found = json.loads(capsys.readouterr().out)
    assert found["ratio_vs_generate_sorted"] > 0 and found["tokens_per_s"] > 0
    fp32 = found["by_dtype"]["fp32"]
    assert fp32["other_differences"] == 0
    assert fp32["identical_replies"] + fp32["near_ties"] == found["rows"] == 12
    assert fp32["tokens"] >= found["identical_tokens"] > 0
    assert set(fp32["latency_ms"]) == {"p50", "p95"}


def test_replies_are_cut_after_the_first_stop_token() -> None:
    assert benchmark().until_stop([5, 2, 2, 2], 2) == [5, 2]
    assert benchmark().until_stop([5, 6], 2) == [5, 6]
