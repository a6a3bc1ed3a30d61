"""Decoding speed beside transformers' generate(): same prompts, same batch size, one process.

    python benchmarks/decode_speed.py --json            # all of it, about 12 minutes on two cores
    python benchmarks/decode_speed.py --quick --json    # a tiny random model, seconds

Both decode greedily with the same stop token and reply limit. generate() gets length-sorted, left-padded
batches of the size this decoder uses, its default cache and attention. Runs alternate (A B A B ...) after one
warm-up each; ratios are medians over pairs. `cpu_time_ratio` compares processor seconds: with --threads 1 it is what
an idle machine would show even while others use this one. A differing reply is a near tie when, at its first
differing token, fp32 transformers logits of the two best tokens lie less than 1e-3 apart.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from metier.engine import SamplingParams, load, sample

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "bitext_support" / "bitext_customer_support.csv"
NEAR_TIE = 1e-3
INSTRUCTION = (
    "You are the support desk of a mail-order shop. Answer the customer's message in one short paragraph of at most "
    "sixty words. Begin with the customer's first name. Repeat the ticket reference exactly as it is written. Say "
    "what happens next and who does it. If money goes back, write the amount with two decimals and the currency sign "
    "and call it a refund, never a credit. Do not promise a date or a number of days. Do not blame the customer, the "
    "courier or a colleague. Do not ask for a password, a card number or a security code. If the message names an "
    "order that cannot be changed any more, say so in the first sentence and offer the return label instead. If the "
    "customer is angry, say sorry once and only once. If the message holds several questions, answer each of them in "
    "the order in which they were asked. End with the words 'Kind regards, the support desk'. Write plain English, no "
    "lists, no headings, no emoji and no links."
)
WORDS = ("order", "parcel", "refund", "address", "invoice", "card", "size", "courier", "return", "label", "password")


class Peer(NamedTuple):
    """One timed run: wall and processor seconds, and the new tokens of each prompt."""

    seconds: float
    cpu_s: float
    replies: list[list[int]]


def messages(num_rows: int, seed: int) -> list[list[dict[str, str]]]:
    """Support messages: real questions where the data lies beside the repository, else made-up ones."""
    draw = random.Random(seed)
    if DATA.exists():
        with DATA.open(encoding="utf-8", newline="") as file:
            questions = [row["instruction"] for row in csv.DictReader(file)]
    else:
        questions = [" ".join(draw.choices(WORDS, k=draw.randint(6, 14))) + "?" for _ in range(2000)]
    found = []
    for _ in range(num_rows):
        asked = " ".join(draw.sample(questions, draw.randint(1, 6)))
        head = f"Ticket {draw.randint(10**5, 10**6)}, order {draw.randint(10**7, 10**8)}. "
        found.append([{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": head + asked}])
    return found


def generate_sorted(model: Any, prompts: list[list[int]], batch: int, max_tokens: int, stop: int) -> Peer:
    """The peer: generate() over length-sorted, left-padded batches."""  # Any: the class is chosen by config
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    replies: list[list[int]] = [[] for _ in prompts]
    start, start_cpu = time.perf_counter(), time.process_time()
    for low in range(0, len(order), batch):
        members = order[low : low + batch]
        width = max(len(prompts[i]) for i in members)
        token_BT = torch.full((len(members), width), stop)
        mask_BT = torch.zeros_like(token_BT)
        for b, i in enumerate(members):
            token_BT[b, width - len(prompts[i]) :] = torch.tensor(prompts[i])
            mask_BT[b, width - len(prompts[i]) :] = 1
        with torch.inference_mode():
            out_BT = model.generate(
                token_BT, attention_mask=mask_BT, max_new_tokens=max_tokens, do_sample=False,
                eos_token_id=stop, pad_token_id=stop,
            )  # fmt: skip
        for b, i in enumerate(members):
            replies[i] = until_stop(out_BT[b, width:].tolist(), stop)
    return Peer(time.perf_counter() - start, time.process_time() - start_cpu, replies)


def until_stop(tokens: list[int], stop: int) -> list[int]:
    """The tokens up to and with the first stop token."""
    return tokens[: tokens.index(stop) + 1] if stop in tokens else tokens


def ours(handle: Any, prompts: list[list[int]], batch: int, max_tokens: int, stop: int) -> Peer:
    """This decoder over the same prompts."""
    params = SamplingParams(max_tokens=max_tokens, stop_ids=frozenset({stop}), max_batch=batch)
    start, start_cpu = time.perf_counter(), time.process_time()
    found = dict(sample(handle, prompts, params))
    seconds, cpu_s = time.perf_counter() - start, time.process_time() - start_cpu
    return Peer(seconds, cpu_s, [list(found[i].tokens) for i in range(len(prompts))])


def agreement(model_fp32: Any, prompts: list[list[int]], one: Peer, two: Peer) -> dict[str, int]:
    """Replies and tokens that agree, and what the others differ by."""
    count = {"identical_replies": 0, "identical_tokens": 0, "tokens": 0, "near_ties": 0, "other_differences": 0}
    for prompt, left, right in zip(prompts, one.replies, two.replies, strict=True):
        count["tokens"] += len(right)
        same = next((t for t, pair in enumerate(zip(left, right, strict=False)) if pair[0] != pair[1]), len(right))
        count["identical_tokens"] += same
        if left == right:
            count["identical_replies"] += 1
            continue
        with torch.inference_mode():
            logits = model_fp32(torch.tensor([prompt + right[:same]]), logits_to_keep=1).logits[0, -1].float()
        high, low = logits.topk(2).values.tolist()
        count["near_ties" if high - low < NEAR_TIE else "other_differences"] += 1
    return count


def latency(run: Any, prompts: list[list[int]]) -> dict[str, float]:
    """p50 and p95 in milliseconds, one prompt at a time; nothing without prompts."""
    if not prompts:
        return {}
    seconds = sorted(run([prompt]).seconds for prompt in prompts)
    return {
        "p50": 1e3 * statistics.median(seconds),
        "p95": 1e3 * seconds[min(len(seconds) - 1, int(0.95 * len(seconds)))],
    }


def compare(
    args: argparse.Namespace, model_dir: Path, prompts: list[list[int]], stop: int, dtype: str
) -> dict[str, Any]:
    """Interleaved pairs at one precision."""
    from transformers import AutoModelForCausalLM

    fp32 = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    model = fp32 if dtype == "fp32" else AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16).eval()
    handle = load(model_dir, dtype=dtype, threads=args.threads)
    size = (args.batch, args.max_tokens, stop)
    ours(handle, prompts[: args.batch], *size)
    generate_sorted(model, prompts[: min(4, len(prompts))], *size)
    pairs = []
    for _ in range(args.pairs):
        pairs.append((ours(handle, prompts, *size), generate_sorted(model, prompts, *size)))
        print(f"{dtype}: {pairs[-1][0].seconds:.2f} s beside {pairs[-1][1].seconds:.2f} s", file=sys.stderr)
    num_tokens = sum(map(len, pairs[0][0].replies))
    few = prompts[: args.latency_rows]
    own_s = statistics.median(pair[0].seconds for pair in pairs)
    peer_s = statistics.median(pair[1].seconds for pair in pairs)
    found = {
        "ratio_vs_generate_sorted": statistics.median(b.seconds / a.seconds for a, b in pairs),
        "ratios": [b.seconds / a.seconds for a, b in pairs],
        "cpu_time_ratio": statistics.median(b.cpu_s / a.cpu_s for a, b in pairs),
        "seconds": [[a.seconds, b.seconds] for a, b in pairs],
        "tokens_per_s": num_tokens / own_s,
        "generate_tokens_per_s": sum(map(len, pairs[0][1].replies)) / peer_s,
        **agreement(fp32, prompts, *pairs[0]),
        "latency_ms": latency(lambda one: ours(handle, one, 1, args.max_tokens, stop), few),
        "generate_latency_ms": latency(lambda one: generate_sorted(model, one, 1, args.max_tokens, stop), few),
    }
    return found


def tiny_model(folder: Path) -> tuple[Path, int]:
    """A random Llama of four layers for --quick; its last token is the stop token."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)  # the benchmark's own process; nothing else draws from it
    config = LlamaConfig(
        vocab_size=512, hidden_size=96, intermediate_size=192, num_hidden_layers=4, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder, 511


def quick_prompts(num_rows: int) -> list[list[int]]:
    """Random tokens with a shared beginning of 200."""
    draw = random.Random(0)
    shared = [draw.randrange(500) for _ in range(200)]
    return [shared + [draw.randrange(500) for _ in range(draw.randint(30, 120))] for _ in range(num_rows)]


def real_prompts(model_dir: Path, num_rows: int) -> tuple[list[list[int]], int]:
    """The support messages in the model's own template, and its end-of-turn token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    drawn = [
        tokenizer.apply_chat_template(one, add_generation_prompt=True, return_dict=False)
        for one in messages(num_rows, seed=0)
    ]
    return drawn, stop


def run(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All figures as one JSON-ready object; those of the first precision also at the top."""
    if args.quick:
        model_dir, stop = tiny_model(folder)
        prompts = quick_prompts(args.rows)
    else:
        model_dir = args.model or resolve_default()
        prompts, stop = real_prompts(model_dir, args.rows)
    by_dtype = {dtype: compare(args, model_dir, prompts, stop, dtype) for dtype in args.dtype}
    first = by_dtype[args.dtype[0]]
    lengths = [len(prompt) for prompt in prompts]
    return {
        **{name: first[name] for name in ("ratio_vs_generate_sorted", "tokens_per_s", "identical_tokens", "near_ties")},
        "rows": len(prompts), "batch": args.batch, "pairs": args.pairs, "threads": args.threads,
        "prompt_tokens": {"min": min(lengths), "mean": statistics.mean(lengths), "max": max(lengths)},
        "by_dtype": by_dtype,
    }  # fmt: skip


def resolve_default() -> Path:
    """The folder of the default base model."""
    from metier.models import resolve

    return resolve("smollm2-135m-instruct").dir


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Settings; --quick shrinks the defaults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="model folder; default: the base model of metier")
    parser.add_argument("--rows", type=int, help="prompts (96; 12 with --quick)")
    parser.add_argument("--batch", type=int, help="rows at once, for both (32; 6 with --quick)")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, help="longest reply (64; 16 with --quick)")
    parser.add_argument("--latency-rows", type=int, help="prompts for latency at concurrency 1 (20; 3 with --quick)")
    parser.add_argument("--dtype", nargs="+", default=["bf16", "fp32"], choices=["bf16", "fp32"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="tiny random model, no data, seconds")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args(argv)
    usual = {"rows": (96, 12), "batch": (32, 6), "max_tokens": (64, 16), "latency_rows": (20, 3)}
    for name, (full, quick) in usual.items():
        if getattr(args, name) is None:  # a loop over the four options that --quick shrinks
            setattr(args, name, quick if args.quick else full)
    return args


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    args = parse(argv)
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        found = run(args, Path(folder))
    if args.json:
        print(json.dumps(found))
    else:
        for dtype, one in found["by_dtype"].items():
            print(
                f"{dtype}: {one['ratio_vs_generate_sorted']:.2f} times generate() "
                f"({one['tokens_per_s']:.0f} beside {one['generate_tokens_per_s']:.0f} tokens/s), "
                f"{one['identical_tokens']} of {one['tokens']} tokens before a first difference, "
                f"{one['near_ties']} near ties, {one['other_differences']} other differences"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
