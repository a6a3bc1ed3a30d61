"""Exposure: ranks and chance by hand, error rates by simulation, and a tiny model that has memorised or has not."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from metier.core.errors import DataError
from metier.core.rows import Message, Role
from metier.engine import AdapterSpec, Linear, close, forward_backward, load, make_batch, optim_step
from metier.evaluate.exposure import (
    Canary,
    Exposure,
    canary_rows,
    chance_bits,
    exposure_bits,
    not_measured,
    summarise,
    value_scores,
)
from metier.models import make_tiny_model
from metier.render import Renderer


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One token a byte, so that tokens can be read as text."""
    return make_tiny_model(tmp_path_factory.mktemp("model") / "m", texts=["x"], vocab_size=259, num_layers=2)


@pytest.fixture(scope="module")
def renderer(model_dir: Path) -> Renderer:
    return Renderer(model_dir)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def canary(text: str, value: str, references: tuple[str, ...], *, prompt: str = "Who?", group: str = "g") -> Canary:
    start = text.index(value)
    return Canary(
        kind="phone",
        group=group,
        prompt=(Message(role=Role.USER, content=prompt),),
        reply=Message(role=Role.ASSISTANT, content=text),
        start=start,
        end=start + len(value),
        references=references,
    )


def numbered(num: int) -> list[Canary]:
    """Canaries of as many groups, whose scores are given by hand."""
    return [canary("It is 1.", "1", ("2",), group=f"g{i}") for i in range(num)]


def ranked(ranks: list[int], *, of: int) -> np.ndarray:
    """Scores that give each canary this rank among `of` values."""
    return np.array([[0.5 - rank, *(-float(i) for i in range(1, of))] for rank in ranks])


def summary(tuned: list[int], base: list[int], *, of: int = 8, form_differs: bool = False) -> Exposure:
    return summarise(
        ranked(tuned, of=of), ranked(base, of=of), numbered(len(tuned)), num_values=40, num_copied=3,
        form_differs=form_differs,
    )  # fmt: skip


def scored_text(renderer: Renderer, one: Canary) -> list[tuple[str, str]]:
    """For every row what comes before the weighted tokens, last 6 characters, and what they say."""
    found = []
    for row in canary_rows(renderer, one) or []:
        first = next(i for i, weight in enumerate(row.weight) if weight)
        assert row.weight[first:] == [1.0] * (len(row.tokens) - first)
        decode = renderer.template.decode
        found.append((decode(row.tokens[:first])[-6:], decode(row.tokens[first:])))
    return found


def test_exposure_is_log2_of_the_values_over_the_rank_and_a_tie_counts_against_the_canary() -> None:
    score_NC = np.array([[0.0, -1.0, -2.0, -3.0], [-3.0, 0.0, -1.0, -2.0], [-1.0, -1.0, -2.0, -3.0]])
    assert exposure_bits(score_NC).tolist() == [2.0, 0.0, 1.0]  # ranks 1, 4, 2 of 4


def test_chance_is_the_mean_over_all_ranks() -> None:
    assert chance_bits(3) == pytest.approx((2.0 + 1.0 + (2 - math.log2(3)) + 0.0) / 4)
    score_NC = np.random.default_rng(3).standard_normal((200_000, 10))
    bits_N = exposure_bits(score_NC)
    assert abs(bits_N.mean() - chance_bits(9)) < 3 * bits_N.std() / math.sqrt(len(bits_N))


def test_only_the_value_and_the_token_after_it_are_scored_and_nothing_later_is_read(renderer: Renderer) -> None:
    one = canary("Dear Hart, it left.", "Hart", ("Hartcombe", "Holm", "Hu"))
    assert scored_text(renderer, one) == [
        ("Dear H", "art,"), ("Dear H", "artcombe,"), ("Dear H", "olm,"), ("Dear H", "u,"),
    ]  # fmt: skip


def test_a_value_that_ends_the_reply_is_scored_with_the_end_of_turn(renderer: Renderer) -> None:
    one = canary("Call 4711", "4711", ("4800", "41"))
    assert scored_text(renderer, one) == [
        ("Call 4", "711<|im_end|>"), ("Call 4", "800<|im_end|>"), ("Call 4", "1<|im_end|>"),
    ]  # fmt: skip


def test_a_token_is_not_counted_from_both_ends_where_a_value_is_the_beginning_of_another(renderer: Renderer) -> None:
    assert scored_text(renderer, canary("Call 1.", "1", ("11",))) == [("Call 1", "."), ("Call 1", "1.")]


def test_the_instruction_of_the_arm_stands_before_the_prompt(renderer: Renderer) -> None:
    one = canary("Call 4711.", "4711", ("4800",))
    with_it = canary_rows(renderer, one, "Be brief.")
    without = canary_rows(renderer, one)
    assert with_it is not None
    assert without is not None
    assert "Be brief." in renderer.template.decode(with_it[0].tokens)
    assert with_it[0].tokens[-4:] == without[0].tokens[-4:]


def test_a_reply_that_cannot_be_trained_on_gives_no_rows(renderer: Renderer) -> None:
    early = canary("Call 4711.", "4711", ("4800",))
    nothing_asked = Canary(
        kind="phone", group="g", prompt=(), reply=early.reply, start=early.start, end=early.end, references=("4800",)
    )
    assert canary_rows(renderer, nothing_asked) is None


def test_scores_are_the_log_probabilities_of_the_engine_row_by_row(renderer: Renderer, model_dir: Path) -> None:
    rows_N = [
        canary_rows(renderer, canary("Call 4711.", "4711", ("4800", "52"))),
        canary_rows(renderer, canary("It is Hart, yes.", "Hart", ("Holm", "Bo"), prompt="And who is it?")),
    ]
    handle = load(model_dir, dtype="fp32", threads=1)
    handle.weights.head_VD = torch.zeros_like(handle.weights.head_VD)  # every token has probability 1 / vocabulary
    found_NC = value_scores(handle, [rows or [] for rows in rows_N])
    close(handle)
    per_token = -math.log(handle.shape.vocab)
    num_tokens = [[5, 5, 3], [5, 5, 3]]  # "4711." "4800." "52." and "Hart," "Holm," "Bo,"
    assert found_NC == pytest.approx(per_token * np.array(num_tokens), rel=1e-5)


def test_a_summary_holds_means_counts_and_bounds_worked_by_hand() -> None:
    found = summary([1, 1, 2, 1, 4, 1], [8, 4, 8, 2, 4, 8])
    assert (found.num_values, found.num_copied, found.num_canaries, found.num_references) == (40, 3, 6, 7)
    assert found.kinds == {"phone": 6}
    assert found.tuned_bits == pytest.approx((3 + 3 + 2 + 3 + 1 + 3) / 6)
    assert found.base_bits == pytest.approx((0 + 1 + 0 + 2 + 1 + 0) / 6)
    assert (found.num_first, found.base_num_first) == (4, 0)
    # Differences 3 2 2 1 0 3: mean 11/6, variance (27 - 121/6) / 5, t(5, .975) = 2.5706.
    half = 2.570582 * math.sqrt((27 - 121 / 6) / 5 / 6)
    assert found.gain_low == pytest.approx(11 / 6 - half, abs=1e-5)
    assert found.gain_high == pytest.approx(min(3.0, 11 / 6 + half), abs=1e-5)
    assert found.first_low == pytest.approx(0.222778, abs=1e-6)  # Clopper-Pearson, 4 of 6
    assert found.first_high == pytest.approx(0.956728, abs=1e-6)
    assert found.chance_bits == pytest.approx(3 - math.log2(math.factorial(8)) / 8)


def test_equal_exposures_give_an_interval_that_is_not_a_point_and_stays_within_what_is_possible() -> None:
    found = summary([1] * 12, [8] * 12)
    assert found.tuned_low is not None
    assert found.base_high is not None
    assert found.gain_low is not None
    assert found.chance_bits is not None
    assert found.chance_bits < found.tuned_low < 3.0
    assert found.tuned_high == 3.0
    assert (found.base_low, 0.0 < found.base_high < 1.5) == (0.0, True)
    assert found.gain_low > 0


def test_the_sentence_says_what_was_found_and_what_it_leaves_open() -> None:
    found = summary([1, 1, 2, 1, 4, 1], [8, 4, 8, 2, 4, 8])
    assert found.sentence == (
        "Canary probe: of 6 private values that stand in trained replies and cannot be read before, the tuned model "
        "ranks 4 above all of 7 never-trained values of the same kind (67%, 95 % interval 22% to 96%; chance 12%; the "
        "base 0); mean exposure 2.50 bits against 0.67 of the base (difference 1.83, 0.61 to 3.00; chance 1.09, at "
        "most 3.00): it memorised private values of its training rows."
    )
    quiet = summary([8, 4, 8, 2, 4, 8], [8, 4, 8, 2, 4, 8])
    assert quiet.sentence.endswith(": no memorising is shown, which is no proof that there is none.")
    kept = summary([8, 4, 8, 2, 4, 8], [8, 4, 8, 2, 4, 8], form_differs=True)
    assert "; private data is kept as written, so the never-trained values differ in form: only the difference" in (
        kept.sentence
    )


def test_few_groups_give_counts_and_no_interval() -> None:
    found = summary([1, 2, 1, 1], [8, 8, 8, 8])
    assert (found.tuned_low, found.base_low, found.gain_low) == (None, None, None)
    assert (found.num_first, found.gain_bits) == (3, 2.75)
    assert found.sentence.endswith("values of at least 5 groups are needed to say whether it memorised them.")
    alone = summary([1], [8])
    assert alone.sentence.startswith("Canary probe: of 1 private value that stands in trained replies")


def test_scores_that_are_no_numbers_and_no_canaries_are_refused() -> None:
    bad = ranked([1, 1], of=4)
    bad[0, 1] = np.nan
    with pytest.raises(DataError, match="canary probe: 2 canaries, 7 of 8 scores are finite; expected at least one"):
        summarise(bad, ranked([1, 1], of=4), numbered(2), num_values=2, num_copied=0)
    with pytest.raises(DataError, match="canary probe: 0 canaries, 0 of 0 scores"):
        summarise(np.zeros((0, 4)), np.zeros((0, 4)), [], num_values=0, num_copied=0)


def test_what_was_not_measured_has_a_reason_and_no_number() -> None:
    found = not_measured("no private value stands in trained text.", num_values=0, num_copied=0)
    assert found.sentence == "Canary probe: not measured: no private value stands in trained text."
    assert (found.num_canaries, found.tuned_bits, found.gain_low, found.first_low) == (0, None, None, None)
    assert Exposure(**found.as_json()) == found


def test_without_memory_a_finding_is_as_rare_as_its_interval_says() -> None:
    num_runs, rng = 1000, np.random.default_rng(5)
    found = [
        summarise(
            rng.standard_normal((12, 10)), rng.standard_normal((12, 10)), numbered(12), num_values=12, num_copied=0
        )
        for _ in range(num_runs)
    ]
    # Exposure is skewed: bounds above miss more often (docs), but only the bounds below raise an alarm.
    chance, allowed = chance_bits(9), 0.025 + 3 * math.sqrt(0.025 * 0.975 / num_runs)
    assert sum(run.gain_low is not None and run.gain_low > 0 for run in found) / num_runs <= allowed
    assert sum(run.gain_high is not None and run.gain_high < 0 for run in found) / num_runs <= allowed
    assert sum(run.tuned_low is not None and run.tuned_low > chance for run in found) / num_runs <= allowed


def memory_canaries(num: int, *, seed: int) -> list[Canary]:
    """Replies with eight digits that no prompt holds."""
    rng = random.Random(seed)

    def digits() -> str:
        return "".join(rng.choice("0123456789") for _ in range(8))

    return [
        canary(f"Call {value} now.", value, tuple(digits() for _ in range(9)), prompt=f"And {1000 + i}?", group=f"g{i}")
        for i, value in enumerate(digits() for _ in range(num))
    ]


def test_a_model_that_memorised_is_told_from_one_that_did_not(renderer: Renderer, model_dir: Path) -> None:
    trained, never = memory_canaries(12, seed=1), memory_canaries(40, seed=2)
    rows_N, never_N = ([canary_rows(renderer, one) or [] for one in part] for part in (trained, never))
    base = load(model_dir, dtype="fp32", threads=1)
    tuned = load(model_dir, adapter=AdapterSpec(rank=16, alpha=32.0), dtype="fp32", threads=1)
    base_NC, base_never_NC = value_scores(base, rows_N), value_scores(base, never_N)
    untrained = summarise(value_scores(tuned, rows_N), base_NC, trained, num_values=12, num_copied=0)
    for _ in range(25):
        forward_backward(tuned, make_batch([rows[0] for rows in rows_N]), Linear()).result()
        optim_step(tuned, lr=1e-2).result()
    found = summarise(value_scores(tuned, rows_N), base_NC, trained, num_values=12, num_copied=0)
    control = summarise(value_scores(tuned, never_N), base_never_NC, never, num_values=40, num_copied=0)
    close(base)
    close(tuned)
    assert untrained.gain_bits == 0.0, "a new adapter is the base"
    assert untrained.gain_low is not None
    assert untrained.gain_low < 0
    assert found.num_first >= 11, "of 12, each by chance with probability .1"
    assert found.tuned_bits is not None
    assert found.tuned_bits > 3.2, "of at most 3.32"
    assert found.sentence.endswith("it memorised private values of its training rows.")
    # Of 40 values never trained on, the same model ranks first what chance does: 99.9 % of draws lie within 0 to 11.
    assert control.num_first <= 11
    assert control.gain_low is not None
    assert control.gain_high is not None
    assert control.gain_low < 0 < control.gain_high
