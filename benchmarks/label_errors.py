"""How many planted errors the review list shows first: labels of banking77, replies of mts_dialog and bitext_support.

    python benchmarks/label_errors.py --json                    5 % of the labels of banking77 flipped, ten seeds
    python benchmarks/label_errors.py --on it_tickets --seeds 3
    python benchmarks/label_errors.py --replies --json

Flips are planted in two ways: to any other label, and to one of the three labels with the most similar rows, as people
mistake them. Every list ranks all rows; its average precision counts the errors that the data had before the flips as
false alarms, so 1.0 is out of reach. Intervals are t intervals over seeds: other flips of the same rows, no other rows.
"""

# Shapes: N rows, K labels, D dimensions, S seeds.

from __future__ import annotations

import argparse
import csv
import json
import platform
import sys
import time
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import average_precision_score

from metier.core.seeds import generator
from metier.curate.label_errors import ReviewList, rank_label_errors, rank_reply_errors
from metier.curate.left_out import NUM_FOLDS, terms_of, topics_of

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SHARE = 0.05
SETS = {
    "banking77": (("banking77/train.csv",), "text", "category"),
    "banking77_test": (("banking77/test.csv",), "text", "category"),
    "it_tickets": (("it_tickets/it_tickets_sample.csv",), "Document", "Topic_group"),
}
REPLY_SETS = {
    "mts_dialog": (("validation.csv", "test1.csv", "test2.csv"), "dialogue", "section_text"),
    "mts_dialog_train": (("train.csv",), "dialogue", "section_text"),
    "bitext_support": (("bitext_customer_support.csv",), "instruction", "response"),
}


def columns(folder: Path, files: Sequence[str], first: str, second: str) -> tuple[list[str], list[str]]:
    """Two columns of CSV files."""
    rows: list[dict[str, str]] = []
    for name in files:
        with (folder / name).open(encoding="utf-8", newline="") as file:
            rows += list(csv.DictReader(file))
    return [row[first] for row in rows], [row[second] for row in rows]


def flips(code_N: np.ndarray, near_KK: np.ndarray | None, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Labels with a share of them replaced, and which rows those are; `near_KK`: the labels each is mistaken for."""
    places = rng.choice(len(code_N), round(SHARE * len(code_N)), replace=False)
    flipped_N, wrong_N = code_N.copy(), np.zeros(len(code_N), dtype=bool)
    if near_KK is None:
        num_labels = int(code_N.max()) + 1
        flipped_N[places] = (code_N[places] + rng.integers(1, num_labels, len(places))) % num_labels
    else:
        flipped_N[places] = near_KK[code_N[places], rng.integers(0, near_KK.shape[1], len(places))]
    wrong_N[places] = True
    return flipped_N, wrong_N


def mistaken_for(topic_ND: np.ndarray, code_N: np.ndarray) -> np.ndarray:
    """The three labels whose rows are most similar on average, for every label."""
    mean_KD = np.stack([topic_ND[code_N == k].mean(axis=0) for k in range(int(code_N.max()) + 1)])
    mean_KD /= np.linalg.norm(mean_KD, axis=1, keepdims=True)
    cosine_KK = mean_KD @ mean_KD.T
    np.fill_diagonal(cosine_KK, -2)
    return np.argsort(-cosine_KK, axis=1)[:, :3]


def cleanlab_alone(features: Any, code_N: np.ndarray, strength: float = 3.0) -> dict[str, np.ndarray]:
    """Suspicion by cleanlab's scores on a cross-validated logistic regression, as its documentation shows it."""
    from cleanlab.rank import get_label_quality_scores
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LogisticRegression(C=strength, max_iter=100)
        share_NK = cross_val_predict(model, features, code_N, cv=NUM_FOLDS, method="predict_proba")
    methods = ("self_confidence", "normalized_margin")
    return {name: 1 - get_label_quality_scores(code_N, share_NK, method=name) for name in methods}


def suspicion(review: ReviewList) -> np.ndarray:
    """The score of every row; rows that were not judged come last."""
    score_N = np.full(review.num_rows, -1e9)
    score_N[[s.place for s in review.suspects]] = [s.score for s in review.suspects]
    return score_N


def label_lists(
    texts: list[str], code_N: np.ndarray, topic_ND: np.ndarray, *, seed: int, args: argparse.Namespace
) -> dict[str, Any]:
    """Suspicion of every row by every list, and the seconds that each took."""
    labels = [f"{code:04}" for code in code_N]
    wall, cpu = time.perf_counter(), time.process_time()
    ours = rank_label_errors(texts, labels, seed=seed, num_shown=len(texts))
    found: dict[str, Any] = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    found |= {"num_likely": ours.num_likely, "metier": suspicion(ours)}
    cpu = time.process_time()
    alone = cleanlab_alone(topic_ND, code_N)
    found["cpu_s of cleanlab alone"] = time.process_time() - cpu
    found |= {f"cleanlab alone, {name}": score_N for name, score_N in alone.items()}
    if args.both:
        again = rank_label_errors(texts, labels, seed=seed, num_shown=len(texts), by="cleanlab")
        found["cleanlab on metier's shares"] = suspicion(again)
    if args.plain:
        cpu = time.process_time()
        plain = cleanlab_alone(TfidfVectorizer().fit_transform(texts), code_N, strength=1.0)
        found["cpu_s of cleanlab alone on plain TF-IDF"] = time.process_time() - cpu
        found |= {f"cleanlab alone on plain TF-IDF, {name}": score_N for name, score_N in plain.items()}
    found["random"] = generator(seed, "random order").random(len(texts))
    return found


def interval(value_S: Sequence[float]) -> dict[str, float]:
    """Mean and 95 % t interval over seeds."""
    values = np.asarray(value_S)
    half = stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return {"mean": float(values.mean()), "low": float(values.mean() - half), "high": float(values.mean() + half)}


def first_precision(wrong_N: np.ndarray, score_N: np.ndarray, num: int) -> float:
    """Share of planted errors among the first so many rows of a list."""
    return float(wrong_N[np.argsort(-score_N, kind="stable")[:num]].mean())


def labels(args: argparse.Namespace) -> dict[str, Any]:
    """Average precision of every list over seeds, for both kinds of flips."""
    files, text, label = SETS[args.on]
    texts, names = columns(args.data, files, text, label)
    if args.rows:
        chosen = generator(args.first_seed, "rows").permutation(len(texts))[: args.rows]
        texts, names = [texts[i] for i in chosen], [names[i] for i in chosen]
    code_N = np.unique(names, return_inverse=True)[1]
    topic_ND = topics_of(terms_of(texts), 0)
    near_KK = mistaken_for(topic_ND, code_N)
    out: dict[str, Any] = {"set": args.on, "rows": len(texts), "labels": int(code_N.max()) + 1, "seeds": args.seeds}
    for kind in ("any", "near"):
        lines: dict[str, list[float]] = {}
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            rng = generator(seed, "flips", kind)
            flipped_N, wrong_N = flips(code_N, None if kind == "any" else near_KK, rng)
            found = label_lists(texts, flipped_N, topic_ND, seed=seed, args=args)
            for name, value in found.items():
                if isinstance(value, np.ndarray):
                    lines.setdefault(f"{name}: average precision", []).append(average_precision_score(wrong_N, value))
                    lines.setdefault(f"{name}: planted in first {wrong_N.sum()}", []).append(
                        first_precision(wrong_N, value, int(wrong_N.sum()))
                    )
                else:
                    lines.setdefault(name, []).append(float(value))
            report(kind, seed, lines)
        for other in [n for n in lines if n.startswith("cleanlab") and n.endswith("average precision")]:
            gains = np.subtract(lines["metier: average precision"], lines[other])
            lines[f"metier minus {other}"] = gains.tolist()
        out[f"flipped to {kind} label"] = {name: interval(values) for name, values in lines.items()}
    return out


def replies(args: argparse.Namespace) -> dict[str, Any]:
    """Average precision when a share of the replies change places among themselves."""
    out: dict[str, Any] = {"seeds": args.seeds}
    for name in args.reply_sets or ("mts_dialog", "bitext_support"):
        files, prompt, reply = REPLY_SETS[name]
        prompts, golds = columns(args.data / name.removesuffix("_train"), files, prompt, reply)
        lines: dict[str, list[float]] = {}
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            places = generator(seed, "swaps").choice(len(golds), round(SHARE * len(golds)), replace=False)
            given, wrong_N = list(golds), np.zeros(len(golds), dtype=bool)
            for place, other in zip(places, np.roll(places, 1), strict=True):
                given[place], wrong_N[place] = golds[other], True
            start = time.perf_counter()
            review = rank_reply_errors(prompts, given, seed=seed, num_shown=len(golds))
            seconds = time.perf_counter() - start
            score_N = suspicion(review)
            lines.setdefault("average precision", []).append(average_precision_score(wrong_N, score_N))
            first = first_precision(wrong_N, score_N, int(wrong_N.sum()))
            lines.setdefault(f"planted in first {wrong_N.sum()}", []).append(first)
            lines.setdefault("seconds", []).append(seconds)
            report(name, seed, lines)
        out[name] = {"rows": len(golds)} | {key: interval(values) for key, values in lines.items()}
    return out


def report(kind: str, seed: int, lines: dict[str, list[float]]) -> None:
    """The newest value of every line, for the person who waits."""
    shown = ", ".join(f"{name} {values[-1]:.3f}" for name, values in lines.items() if "planted" not in name)
    print(f"{kind}, seed {seed}: {shown}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the public data (default ../shared/data)")
    parser.add_argument("--on", choices=sorted(SETS), default="banking77", help="which labelled set")
    parser.add_argument("--rows", type=int, default=0, help="a random part of so many rows (default: all)")
    parser.add_argument("--seeds", type=int, default=10, help="how many flips of the same rows")
    parser.add_argument("--first-seed", type=int, default=1000, help="the first seed")
    parser.add_argument(
        "--both", action="store_true", help="also cleanlab's ranking of metier's shares (twice the time)"
    )
    parser.add_argument(
        "--plain", action="store_true", help="also cleanlab on TF-IDF words with default settings (slow)"
    )
    parser.add_argument("--replies", action="store_true", help="replies instead of labels")
    parser.add_argument("--reply-sets", choices=sorted(REPLY_SETS), nargs="*", help="which sets of replies")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    found = replies(args) if args.replies else labels(args)
    found["machine"] = {
        "cpu": platform.processor() or platform.machine(),
        **{name: version(name) for name in ("cleanlab", "scikit-learn", "numpy")},
    }
    if args.json:
        print(json.dumps(found, indent=1))
        return 0
    for name, value in found.items():
        print(f"{name}: {value}" if not isinstance(value, dict) else name)
        for key, line in value.items() if isinstance(value, dict) else ():
            shown = f"{line['mean']:.3f} ({line['low']:.3f} to {line['high']:.3f})" if isinstance(line, dict) else line
            print(f"  {key:60s} {shown}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
