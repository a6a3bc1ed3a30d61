"""How often a guard is passed, failed or left unproven where the true harm is known.

Part of `decision_rates.py`, which runs the tables of this file with its own.
"""

# Shapes: N rows of a guard.

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from benchmarks.decision_truth import ALPHA, LEVEL, WORTH, Kind, Rate, discordant, drawn

from metier.assess import Decision, GuardScores, ScoreTable, decide
from metier.core.report import GuardState
from metier.core.seeds import generator
from metier.core.settings import DecisionConfig, GuardConfig

LIMIT = 0.05
NUM_GUARDS = 10
QUESTION = DecisionConfig(margin=0.0)
PASSED, FAILED, UNPROVEN = GuardState.PASSED, GuardState.FAILED, GuardState.UNPROVEN


def guard_of(number: int, score_AN: np.ndarray, group_N: np.ndarray, *, binary: bool = True) -> GuardScores:
    """A required guard over the scores of the tuned arm and of its reference."""
    config = GuardConfig(name=f"g{number}", on=f"slice={number}", limit=LIMIT)
    return GuardScores.of(config, tuned=score_AN[0], reference=score_AN[1], groups=group_N, binary=binary)


def with_guards(rng: np.random.Generator, guards: Sequence[GuardScores]) -> Decision:
    """The verdict about a model whose gain is beyond doubt, so that the guards decide."""
    tuned, rival = discordant(rng, 200, 0.3, 0.2)
    table = ScoreTable.of(tuned=tuned, rivals={"rival": rival}, groups=np.arange(200), binary=True)
    return decide(QUESTION, table, alpha_this_look=ALPHA, guards=guards)


def guard_rates(reps: int, seed: int) -> list[Rate]:
    """Ten guards, limit 5 points, arms differing on a tenth of the rows: false failures and false passes."""
    out = []
    for num_rows in (60, 150, 500):
        for change in (0.0, -LIMIT):
            rng = generator(seed, "guards", num_rows, int(100 * change))
            all_passed, failed, first_passed = 0, 0, 0
            for _ in range(reps):
                guards = []
                for g in range(NUM_GUARDS):
                    score_AN = np.stack(discordant(rng, num_rows, 0.1, change if g == 0 else 0.0))
                    guards.append(guard_of(g, score_AN, np.arange(num_rows)))
                found = with_guards(rng, guards)
                states = [guard.state for guard in found.guards]
                all_passed += all(state is PASSED for state in states)
                failed += found.verdict.reason.startswith("guard:")
                first_passed += states[0] is PASSED
            case = f"{num_rows} rows a guard"
            if change == 0:
                rates = [("all ten unharmed pass", all_passed, None), ("unharmed, yet some failed", failed, ALPHA)]
            else:
                rates = [("harmed by exactly the limit, yet passed", first_passed, ALPHA)]
            for what, count, bound in rates:
                out.append(Rate(table="guards", case=f"{case}: {what}", rate=count / reps, reps=reps, bound=bound))
    return out


def guard_states(reps: int, seed: int) -> list[Rate]:
    """Graded scores and groups: the three states, the verdict they lead to, and the rows an unproven one asks for."""
    out = []
    for kind in (Kind(graded=True), Kind(group_rows=4), Kind(graded=True, group_rows=6, sigma=0.7)):
        for harm in (0.0, LIMIT, 4 * LIMIT):
            rng = generator(seed, "guard states", str(kind), int(100 * harm))
            states, some_failed, despite = [], 0, 0
            for _ in range(reps):
                shares = [[LEVEL - (harm if g == 0 else 0.0), LEVEL] for g in range(4)]
                guards = [guard_of(g, *drawn(rng, 240, s, kind), binary=not kind.graded) for g, s in enumerate(shares)]
                found = with_guards(rng, guards)
                states.append(found.guards[0].state)
                some_failed += any(guard.state is FAILED for guard in found.guards)
                blocked = any(guard.state is not PASSED for guard in found.guards)
                despite += blocked and found.verdict.outcome is WORTH
            case = f"{kind}, 240 rows, harm {harm:g}"
            rates: list[tuple[str, float, float | None]] = [
                (str(state), states.count(state) / reps, None) for state in (PASSED, FAILED, UNPROVEN)
            ]
            if harm == 0:
                rates.append(("some of four unharmed failed", some_failed / reps, ALPHA))
            elif harm == LIMIT:
                rates[0] = ("passed", rates[0][1], ALPHA)
            rates.append(("WORTH_IT though a required one did not pass", despite / reps, 0.0))
            out += [Rate(table="guard states", case=f"{case}: {w}", rate=r, reps=reps, bound=b) for w, r, b in rates]
    return out + few_harmed(reps, seed) + rows_of_guards(reps, seed)


def few_harmed(reps: int, seed: int) -> list[Rate]:
    """Guards harmed by exactly the limit where few rows differ.

    Shown only where every differing row is a loss: counts are so coarse there that no simple interval holds its level
    (.07 to .09 by enumeration for Bonett-Price).
    """
    out = []
    for num_rows, share, binary in (
        (60, 0.1, False), (100, 0.1, False), (60, 0.1, True), (100, 0.1, True), (60, 0.05, False), (150, 0.05, False),
        (300, 0.05, False), (80, 0.05, True),
    ):  # fmt: skip
        rng, passed = generator(seed, "few harmed", num_rows, int(100 * share), binary), 0
        for _ in range(reps):
            score_AN = np.stack(discordant(rng, num_rows, share, -LIMIT))
            found = with_guards(rng, [guard_of(0, score_AN, np.arange(num_rows), binary=binary)])
            passed += found.guards[0].state is PASSED
        case = f"{'yes-no' if binary else 'graded'}, {num_rows} rows, differing on {share:.0%}, harm {LIMIT:g}: passed"
        bound = ALPHA if share > LIMIT else None
        out.append(Rate(table="guard states", case=case, rate=passed / reps, reps=reps, bound=bound))
    return out


def rows_of_guards(reps: int, seed: int) -> list[Rate]:
    """An unharmed guard on as many rows as it asked for when it was unproven."""
    out = []
    num_pilot = 60
    for half, binary in ((2, True), (3, True), (9, True), (3, False)):
        share = 2 * half / num_pilot
        rng, passed = generator(seed, "guard rows", half, binary), 0
        first, second = np.zeros(num_pilot), np.zeros(num_pilot)
        first[:half], second[half : 2 * half] = 1, 1
        seen = guard_of(0, np.stack([first, second]), np.arange(num_pilot), binary=binary)
        asked = with_guards(rng, [seen]).guards[0]
        assert (asked.state, asked.estimate) == (UNPROVEN, 0.0)
        num_rows = asked.rows_needed
        assert num_rows is not None
        for _ in range(reps):
            score_AN = np.stack(discordant(rng, num_rows, share, 0.0))
            found = with_guards(rng, [guard_of(0, score_AN, np.arange(num_rows), binary=binary)])
            passed += found.guards[0].state is PASSED
        scores = "yes-no" if binary else "graded"
        case = f"unharmed, {scores}, differing on {share:.0%}, n={num_rows} as asked for: passed"
        out.append(Rate(table="guard states", case=case, rate=passed / reps, reps=reps, bound=0.80, at_least=True))
    return out
