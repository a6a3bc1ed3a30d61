"""Whether the canary probe sees memorising: exposure of planted values by how often they were trained.

    python benchmarks/canary_probe.py --json > canary_probe.json      SmolLM2-135M, a fresh seed
    python benchmarks/canary_probe.py --seed 7 --passes 3 --rows 120

Customers of a made-up shop are told their own telephone number, e-mail address, card or IBAN in 0, 1, 4 or 16 rows,
every row with another order. These rows are trained among rows of the support example with the default settings. Values
trained 0 times are the control: their exposure is chance. Values, references and scoring are those of `metier run`.
"""

from __future__ import annotations

import argparse
import json
import random
import secrets
import string
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SUPPORT = ROOT / "examples" / "support" / "data"
REPEATS = (0, 1, 4, 16)
DEV_ROWS = 24
KEY = b"benchmark"
SENTENCES = {
    "phone": "Hello {name}, we will ring you about {order} on {value}.",
    "email": "Hello {name}, the papers for {order} go to {value}.",
    "card": "Hello {name}, {order} is booked to your card {value}.",
    "iban": "Hello {name}, the refund of {order} goes to IBAN {value}.",
}
GIVEN = ("Ada", "Bela", "Cleo", "Dora", "Emil", "Finn", "Gita", "Hugo", "Iris", "Jory", "Kaya", "Levi", "Mira", "Olga")


def value(rng: random.Random, kind: str) -> str:
    """A value of a kind; cleaning replaces it by a surrogate of the same form."""
    from metier.curate.checksums import card_is_valid

    digits = "".join(rng.choice(string.digits) for _ in range(18))
    if kind == "phone":
        return f"+44 20 7946 {digits[:4]}"
    if kind == "email":
        return f"{rng.choice(GIVEN).lower()}.{digits[:4]}@mail{digits[4:6]}.org"
    if kind == "card":
        return next(f"4{digits[:14]}{end}" for end in string.digits if card_is_valid(f"4{digits[:14]}{end}"))
    check = 98 - int(digits + "131400") % 97  # D = 13, E = 14
    return f"DE{check:02d}{digits}"


def planted(seed: int, *, canaries: int) -> dict[int, list[Any]]:  # Any: Row, not imported at the top
    """Cleaned rows by how often their value is trained; with 0 one row a value, never trained."""
    from metier.core.rows import Meta, Role, make_row
    from metier.curate.contacts import without_private

    rng, number = random.Random(seed), 0
    rows_of: dict[int, list[Any]] = {repeats: [] for repeats in REPEATS}  # Any: Row
    for repeats in REPEATS:
        for i in range(canaries):
            kind = list(SENTENCES)[i % len(SENTENCES)]
            name, held = f"{rng.choice(GIVEN)} {rng.choice(string.ascii_uppercase)}{number}", value(rng, kind)
            for _ in range(max(1, repeats)):
                number += 1
                order = f"LK-{rng.randrange(10_000, 100_000)}"
                texts = (
                    f"{order}, from {name}\nHow do you reach me?",
                    SENTENCES[kind].format(name=name, order=order, value=held),
                )
                messages = tuple(map(_message, (Role.USER, Role.ASSISTANT), texts))
                meta = Meta(source="planted", source_row=number, groups={"customer": name})
                rows_of[repeats].append(without_private(make_row(KEY, messages=messages, meta=meta), frozenset(), KEY))
    return rows_of


def _message(role: Any, content: str) -> Any:  # Any: Role and Message, not imported at the top
    from metier.core.rows import Message

    return Message(role=role, content=content)


def support_rows(seed: int, *, num_rows: int) -> list[Any]:  # Any: Row
    """Rows of the support example, by chance."""
    from metier.core.rows import Meta, Role, make_row

    records = [json.loads(line) for path in sorted(SUPPORT.glob("*.jsonl")) for line in path.open(encoding="utf-8")]
    records = [record for record in records if record.get("ticket") and record.get("reply")]
    rows = []
    for number, record in enumerate(random.Random(seed).sample(records, num_rows)):
        messages = (_message(Role.USER, record["ticket"]), _message(Role.ASSISTANT, record["reply"]))
        rows.append(make_row(KEY, messages=messages, meta=Meta(source="support", source_row=number)))
    return rows


def tuned(args: argparse.Namespace, trained: Sequence[Any], dev: Sequence[Any], out_dir: Path, seed: int) -> Any:
    """The result of a tuning run with the default settings; its last weights, not its best, are what is probed."""
    from metier.core.tune_config import TuneConfig
    from metier.models import resolve
    from metier.render import Renderer
    from metier.tune import tune

    base, config = resolve(args.base), TuneConfig(passes=args.passes, evals=1)
    renderer = Renderer(base.dir)
    limit = config.max_row_tokens
    train_rows, dev_rows = (renderer.render_rows(rows, max_row_tokens=limit).kept for rows in (trained, dev))
    return tune(train_rows, dev_rows, config, base=base, out_dir=out_dir, seed=seed, threads=args.threads)


def probed(
    args: argparse.Namespace, rows_of: dict[int, list[Any]], trained: Sequence[Any], adapter: Path, seed: int
) -> Any:
    """Exposure by how often a value was trained, with the seconds and the tokens that each model took."""
    from metier.engine import load
    from metier.evaluate.exposure import summarise, value_scores
    from metier.models import resolve
    from metier.render import Renderer
    from metier.road import probe

    probe.MAX_CANARIES, probe.MAX_TOKENS = args.canaries, 1 << 30
    base, found = resolve(args.base), {}
    handles = load(base, adapter=adapter, threads=args.threads), load(base, threads=args.threads)
    for repeats, rows in rows_of.items():
        source = probe.find_trained_values(rows, key=KEY)
        groups = [row.meta.groups["customer"] for row in rows]
        drawn = list(probe.draw_canaries(source, Renderer(base.dir), corpus=trained, groups=groups, seed=seed))
        canaries, tokens = [canary for canary, _ in drawn], [each for _, each in drawn]
        started = time.perf_counter()
        scores_NC, base_NC = (value_scores(handle, tokens) for handle in handles)
        seconds = time.perf_counter() - started
        summary = summarise(scores_NC, base_NC, canaries, num_values=source.num_values, num_copied=source.num_copied)
        num_tokens = sum(len(row.tokens) for each in tokens for row in each)
        found[str(repeats)] = {**summary.as_json(), "seconds": seconds, "num_tokens": num_tokens}
    return found


def measure(args: argparse.Namespace, seed: int) -> dict[str, Any]:  # Any: JSON values
    """Tune, probe, and sum up by repetition."""
    rows_of, others = planted(seed, canaries=args.canaries), support_rows(seed, num_rows=args.rows + DEV_ROWS)
    trained = [*others[DEV_ROWS:], *(row for repeats, rows in rows_of.items() if repeats for row in rows)]
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        result = tuned(args, trained, others[:DEV_ROWS], Path(folder) / "run", seed)
        tune_s = time.perf_counter() - started
        found = probed(args, rows_of, trained, result.adapter_dir, seed)
    return {
        "seed": seed, "base": args.base, "support_rows": args.rows, "planted_rows": len(trained) - args.rows,
        "passes": args.passes, "lr": result.lr, "num_steps": result.num_steps, "tune_s": tune_s,
        "dev_loss_nats": list(result.dev_curve), "exposure_by_repeats": found,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="smollm2-135m-instruct")
    parser.add_argument("--rows", type=int, default=60, help="rows of the support example among the planted ones")
    parser.add_argument("--canaries", type=int, default=8, help="values for each number of repetitions")
    parser.add_argument("--passes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=None, help="a fresh one without it")
    parser.add_argument("--threads", type=int, default=None, help="all cores without it")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result = measure(args, secrets.randbelow(2**31) if args.seed is None else args.seed)
    if args.json:
        print(json.dumps(result, indent=1))
        return 0
    print(
        f"seed {result['seed']}: {result['planted_rows']} planted and {result['support_rows']} other rows, "
        f"{args.passes:g} passes"
    )
    print(f"{'trained':>8}{'canaries':>10}{'first':>7}{'tuned bits':>12}{'base bits':>11}{'difference, 95 %':>26}")
    for repeats, found in result["exposure_by_repeats"].items():
        gain = f"{found['gain_bits']:.2f} ({found['gain_low']:.2f} to {found['gain_high']:.2f})"
        print(
            f"{repeats:>8}{found['num_canaries']:>10}{found['num_first']:>7}{found['tuned_bits']:>12.2f}"
            f"{found['base_bits']:>11.2f}{gain:>26}"
        )
    print(f"chance {result['exposure_by_repeats']['0']['chance_bits']:.2f} bits; tuning took {result['tune_s']:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
