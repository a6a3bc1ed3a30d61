"""Speeds of this machine on this base and these rows, measured in a few seconds, and the work that awaits them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from metier.arms import TemplateArm
from metier.core.arm_config import TUNED_KINDS
from metier.road.cut import Parts
from metier.road.rendered import Rendered
from metier.road.session import Session
from metier.road.workspace import peak_memory_gib

if TYPE_CHECKING:
    from metier.engine.load import DtypeName
    from metier.engine.weights import LlamaShape
    from metier.tune import Speed

__all__ = ["Speeds", "Workload", "measure_speeds", "measure_workload"]

PROBE_PROMPTS = 24
SINGLE_PROMPTS = 6
MAX_BATCH, MAX_POSITIONS = 64, 32_768
"""Rows the decoder answers at once, and positions it holds for all of them together."""
RESIZE = 1.2
"""Keys and values while they are moved into larger slots: a fifth of them stands twice."""
LATER_GIB = 0.2
"""What the run imports after the plan: scikit-learn and scipy for the small arm (.12 GiB), tables, bounds, pages."""
GIB = 1024**3


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """How many tokens await the run."""

    train_tokens: tuple[int, ...]
    """Tokens of every train row."""
    dev_tokens: tuple[int, ...]
    num_dev: int
    num_holdout: int
    prompt_tokens: Mapping[str, float]
    """Prompt tokens a request computes, by kind of arm; a prefix shared by all requests is left out."""
    prefix_tokens: Mapping[str, float]
    """Tokens of that prefix, computed once a batch, or once a request at concurrency 1."""
    gold_tokens: float
    """Tokens of a gold reply, mean."""
    template_products: int
    """Rows times templates over all fits of the template arm; 0 where there is none or it does not apply."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Speeds:
    """Measured speeds."""

    dtype: str
    num_layers: int
    tune: Speed
    """Real tokens a second through a training step with all layers adapted, and through a forward pass with loss."""
    prefill_tok_s: float
    """Prompt tokens a second, in a batch."""
    decode_tok_s: float
    """Reply tokens a second, in a batch."""
    single_token_s: float
    """Seconds a reply token at concurrency 1."""
    base_reply_tokens: float
    """Tokens the prompted base answers with, mean."""
    load_s: float
    """Seconds to load the base once it was compared with transformers' own forward."""
    measured_s: float
    """Seconds this measurement took."""
    measured_gib: float
    """Peak memory up to here: base, decoding of the probe, a training step with all layers adapted."""
    weights_gib: float
    """Memory of one copy of the base's weights."""
    position_gib: float
    """Memory of the keys and values of one position, keys in fp32."""

    def batch_s(self, *, num_rows: int, prefix_tokens: float, prompt_tokens: float, reply_tokens: float) -> float:
        """Seconds to answer rows in a batch."""
        prompts = prefix_tokens + num_rows * prompt_tokens
        return prompts / self.prefill_tok_s + num_rows * reply_tokens / self.decode_tok_s

    def single_s(self, prompt_tokens: float, reply_tokens: float) -> float:
        """Seconds of one reply alone."""
        return prompt_tokens / self.prefill_tok_s + reply_tokens * self.single_token_s

    def peak_memory_gib(self, *, num_rows: int, num_positions: float) -> float:
        """Peak memory of the run in GiB: the tuned model comes on top, and a full batch of the longest prompts."""
        tuned = 2 * self.weights_gib  # the weights, and the decoder's packed copy of them
        positions = min(min(num_rows, MAX_BATCH) * num_positions, MAX_POSITIONS)
        return self.measured_gib + LATER_GIB + tuned + RESIZE * positions * self.position_gib

    def as_json(self) -> dict[str, Any]:
        """The speeds as JSON values."""
        return asdict(self)


def measure_workload(session: Session, parts: Parts, rendered: Rendered) -> Workload:
    """Count tokens; nothing is timed."""
    instruction = next(iter(session.wordings.values()), "")
    head = float(len(session.renderer.template.encode([instruction])[0])) if instruction else 0.0
    train_tokens = tuple(len(row.tokens) for row in rendered.train)
    gold = float(np.mean([row.num_trained for row in (*rendered.train, *rendered.dev)]))
    asked = float(np.mean([len(row.tokens) for row in rendered.dev])) - gold
    shot, nearest = float(np.mean(train_tokens)), _retrieved(session, parts, rendered)
    # Fixed examples are part of the prefix; retrieved ones differ from row to row.
    return Workload(
        train_tokens=train_tokens,
        dev_tokens=tuple(len(row.tokens) for row in rendered.dev),
        num_dev=len(parts.dev),
        num_holdout=parts.num_holdout,
        prompt_tokens={
            "prompt": asked,
            "few_shot": asked,
            "retrieval": asked + nearest,
            "endpoint": asked,
            "tuned": asked,
            "tuned_retrieval": asked + nearest,
        },
        prefix_tokens={
            "prompt": head,
            "few_shot": head + 3 * shot,
            "retrieval": head,
            "endpoint": head,
            **dict.fromkeys(TUNED_KINDS, 0.0),
        },
        gold_tokens=gold,
        template_products=_template_products(session, parts),
    )


def _template_products(session: Session, parts: Parts) -> int:
    from metier.arms.template import num_products

    arms = [TemplateArm(arm.kind, session.grader) for arm in session.config.arm if arm.kind == "template"]
    return sum(num_products(parts.train) for arm in arms if arm.needs(parts.train, parts.dev) is None)


def _retrieved(session: Session, parts: Parts, rendered: Rendered) -> float:
    """Tokens the nearest train rows add to a prompt, mean over a few dev rows: long prompts have long neighbours."""
    from metier.arms.nearest import NearestRows
    from metier.arms.retrieval import DEFAULT_K

    wanted = [max(arm.k or DEFAULT_K) for arm in session.config.arm if arm.kind in ("retrieval", "tuned_retrieval")]
    if not wanted:
        return 0.0
    tokens = {row.row_id: len(row.tokens) for row in rendered.train}
    shown = NearestRows.build([row for row in parts.train if row.row_id in tokens])
    found = shown.nearest(parts.dev[:PROBE_PROMPTS], max(wanted))
    return float(np.mean([sum(tokens[row.row_id] for row in near) for near in found]))


def measure_speeds(session: Session, parts: Parts, rendered: Rendered) -> Speeds:
    """Time loading, prefill, decoding in a batch and alone, and training steps; some ten seconds on two cores."""
    from metier.engine import close, load
    from metier.tune import measure_speed, place_of, runtime_gib, trained_form

    config = session.config.tune
    runtime = runtime_gib()
    started = time.perf_counter()
    handle = session.handle
    decoding = _decoding(session, parts, rendered)
    spec = trained_form(replace(config, depth=0), num_layers=handle.shape.num_layers)
    loading = time.perf_counter()
    dtype: DtypeName = "bf16" if session.dtype_name == "bf16" else "fp32"
    trainee = load(session.base, adapter=spec, dtype=dtype, **place_of(config)._asdict())
    load_s = time.perf_counter() - loading  # of the second load: the first may compare the base with transformers' own
    try:
        tune_speed = measure_speed(trainee, rendered.train, config, runtime_gib=runtime)
    finally:
        close(trainee)
    return Speeds(
        dtype=session.dtype_name,
        num_layers=handle.shape.num_layers,
        tune=tune_speed,
        load_s=load_s,
        measured_s=time.perf_counter() - started,
        measured_gib=peak_memory_gib(),
        weights_gib=_weights_gib(session),
        position_gib=_position_bytes(handle.shape, value_bytes=2 if session.dtype_name == "bf16" else 4) / GIB,
        **decoding,
    )


def _weights_gib(session: Session) -> float:
    """Memory of one copy of the base's weights."""
    from metier.tune.memory import base_bytes

    shape, value_bytes = session.handle.shape, session.handle.dtype.itemsize
    if session.config.tune.base_bits == 4:
        return base_bytes(shape, value_bytes=value_bytes, base_bits=4) / GIB
    return session.base.num_params * value_bytes / GIB


def _position_bytes(shape: LlamaShape, *, value_bytes: int) -> int:
    """Bytes of one position's keys (fp32) and values over all layers."""
    return shape.num_layers * shape.num_kv_heads * shape.head_width * (4 + value_bytes)


def _decoding(session: Session, parts: Parts, rendered: Rendered) -> dict[str, float]:
    """Prefill, batched decoding and decoding alone, on dev prompts with the first wording."""
    from metier.arms.replier import with_instruction

    rows = parts.dev[:PROBE_PROMPTS]
    instruction = next(iter(session.wordings.values()), None)
    talks = [with_instruction(row, instruction) for row in rows]
    prompts = [session.renderer.prompt_tokens(talk, row.tools) for talk, row in zip(talks, rows, strict=True)]
    replier = session.replier(session.handle, rendered.golds)
    limit = replier.max_reply_tokens
    room = session.handle.shape.max_positions - limit
    prompts = [prompt for prompt in prompts if len(prompt) <= room] or [prompt[:room] for prompt in prompts]
    _timed(session, prompts[:1], 2)  # warm-up: kernels and buffers
    prefill_s, _ = _timed(session, prompts, 1)
    whole_s, out = _timed(session, prompts, limit)
    shared = next((i for i, same in enumerate(zip(*prompts, strict=False)) if len(set(same)) > 1), 0)
    computed = shared + sum(len(prompt) - shared for prompt in prompts)
    alone = list(replier.reply_each(rows[:SINGLE_PROMPTS], talks[:SINGLE_PROMPTS]))
    read_s = sum(len(prompt) - shared for prompt in prompts[: len(alone)]) * prefill_s / computed
    return {
        "prefill_tok_s": computed / prefill_s,
        "decode_tok_s": out / max(whole_s - prefill_s, 1e-3),
        "single_token_s": max(sum(r.seconds for r in alone) - read_s, 1e-4) / max(sum(r.tokens_out for r in alone), 1),
        "base_reply_tokens": out / len(prompts),
    }


def _timed(session: Session, prompts: Sequence[Sequence[int]], max_tokens: int) -> tuple[float, int]:
    """Seconds and sampled tokens of one greedy batch."""
    from metier.engine import SamplingParams, sample

    params = SamplingParams(max_tokens=max_tokens, stop_ids=session.renderer.stop_ids)
    started = time.perf_counter()
    count = sum(len(found.tokens) for _, found in sample(session.handle, prompts, params))
    return time.perf_counter() - started, count
