"""A report with every part filled, its numbers invented: what the page tests draw."""

from __future__ import annotations

from dataclasses import replace

from metier.core.report import (
    ArmReport,
    Comparison,
    DataReport,
    ExampleReport,
    GuardReport,
    GuardState,
    LooksReport,
    Outcome,
    PlanEntry,
    PriceEntry,
    QuestionReport,
    Report,
    SplitReport,
    VerdictReport,
)

ROWS_NEEDED = {
    "holdout": 180, "groups": 120, "versus": "small", "if_plan_gain": 180, "if_estimate": None, "if_low": None, "if_high": 90,
    "by_rival": {"prompt": None, "few_shot": None, "retrieval": 160, "small": 180},
}  # fmt: skip
TRIED = {
    "prompt": "guidelines.md",
    "few_shot": "set 1, k=3",
    "retrieval": "k=1",
    "small": "model=nearest, analyzer=char_wb, slots=True, masked=False",
}
ARMS = ("prompt", "few_shot", "retrieval", "small", "tuned")
SCORES = {"prompt": 0.013, "few_shot": 0.12, "retrieval": 0.347, "small": 0.42, "tuned": 0.613}


def comparison(versus: str) -> Comparison:
    gain = SCORES["tuned"] - SCORES[versus]
    return Comparison(
        versus=versus, estimate=gain, low=gain - 0.08, high=gain + 0.09, side_alpha=0.05, high_alpha=0.0125, method="bonett_price",
        num_rows=150, num_groups=150, discordance=0.41,
    )  # fmt: skip


def arm(name: str) -> ArmReport:
    score = SCORES[name]
    return ArmReport(
        name=name, kind=name, status="ran", score=score, low=max(0, score - 0.08), high=score + 0.08, num_rows=150,
        dev_score=score + 0.02, chosen_from=({"name": TRIED[name], "score": 0.02, "num_rows": 80},) if name in TRIED else (),
        carries_instruction="none" if name in ("small", "tuned") else "full", tokens_in=140.0, tokens_out=55.0,
        cost_per_1k_requests=0.0412, latency_ms={"p50": 1210.0, "p95": 1822.0, "num_rows": 40},
        checks={"greeting_by_name": 0.9, "ticket_reference": 0.8},
    )  # fmt: skip


def cross_check(versus: str) -> dict[str, object]:
    bounds = (
        {"bootstrap_low": None, "bootstrap_high": None}
        if versus == "prompt"
        else {"bootstrap_low": 0.11, "bootstrap_high": 0.24}
    )
    return {
        "versus": versus,
        "gains": 41,
        "losses": 12,
        "mid_p": None if versus == "few_shot" else 0.00012,
        **bounds,
        "side_alpha": 0.05,
    }


def sample_report(outcome: Outcome = Outcome.WORTH_IT) -> Report:
    comparisons = tuple(comparison(name) for name in ARMS[:-1])
    example = ExampleReport(
        row_id="r1", prompt="My lantern arrived dented.\n<script>alert(1)</script> Ana, LK-10442",
        gold="Hello Ana, thank you for ticket LK-10442. The Larch Works", base="I am sorry to hear that!",
        tuned="Hello Ana, thank you for ticket LK-10442. The Larch Works", base_score=0.0, tuned_score=1.0,
        base_reasons=("The reply does not open with the customer's name.",),
    )  # fmt: skip
    return Report(
        project="support",
        verdict=VerdictReport(
            outcome=outcome, reason="margin_reached", claim="better",
            sentence="Tuning was worth it: the tuned model scores 61.3 %, 19.3 points above the strongest rival (small), and at least 11.3 points above every alternative (95 % confidence), against a margin of 10 points.",
        ),
        question=QuestionReport(
            hash="ab" * 32, metric="all_pass", unit="share of replies that keep every convention", margin=0.1,
            plan_gain=0.2, alpha=0.05, comparators=ARMS[:-1], frozen_at="2026-11-23T05:00:00Z",
        ),
        comparisons=comparisons, gain=comparisons[-1], rows_needed=ROWS_NEEDED, mde=0.17,
        arms=tuple(arm(name) for name in ARMS),
        data=DataReport(
            read=800, kept=690, quarantined={"near_duplicate": 61, "retired_policy": 38, "gold_fails_grader": 9, "near_holdout": 2},
            failed=0, duplicates=61, private={"email": 41, "phone": 12}, stale=38, dataset_version="cd" * 32,
        ),
        split=SplitReport(
            mode="later", train=458, dev=80, holdout=150, purged=2, groups={"train": 180, "dev": 60, "holdout": 100},
            certificate={"max_similarity": 0.71, "similarity": {"train-dev": 0.5, "train-holdout": 0.71}, "exact": 0, "shared_groups": 12, "newest_train": None, "oldest_holdout": "2026-08-02"},
        ),
        looks=LooksReport(used=1, budget=3, alpha_this=0.0167, alpha_left=0.0333, on_these_rows=1, other_questions=0),
        controls={"gold": 1.0, "empty": 0.0, "echo": 0.0, "shuffled": 0.0, "fingerprint": "differs on 40 of 40 dev prompts", "broken_replies": "none"},
        plan=(PlanEntry(quantity="run_minutes", predicted=9.8, low=6.9, high=12.7, actual=9.1),
              PlanEntry(quantity="peak_memory_gib", predicted=2.4, low=1.9, high=2.9, actual=2.2)),
        prices=(PriceEntry(item="machine_hour", amount=0.1, currency="USD", date="", source="assumed"),),
        model={"id": "m1", "base_sha256": "ef" * 32, "method": "lora", "config": {"depth": 20, "masked": True}},
        provenance={"code": "0.1.0", "finished": "2026-11-23 05:12 UTC", "threads": 2, "before_look": {"comparators": list(ARMS[:-1]), "cost_ratio": None, "guard_reference": "few_shot", "prices": [{"item": "machine_hour", "amount": 0.1}]}},
        files={"scores": "scores.parquet", "scores_sha256": "12" * 32},
        costs={"run_minutes": 9.1, "tune_minutes": 3.9, "run_cost": 0.0152, "tune_cost": 0.0065},
        cross_checks=tuple(cross_check(name) for name in ARMS[:-1]),
        examples=(example, replace(example, row_id="r2"), replace(example, row_id="r3")),
        gave_up=("Adapted the top 20 of 30 layers.",),
        dev_curve=({"step": 0, "dev_loss_nats": 2.1}, {"step": 10, "dev_loss_nats": 1.2}, {"step": 20, "dev_loss_nats": 1.0}),
        guards=(GuardReport(name="refunds", limit=0.02, estimate=0.01, low=-0.01, high=0.03, state=GuardState.PASSED, required=True, num_rows=150, rows_needed=None),),
    )  # fmt: skip
