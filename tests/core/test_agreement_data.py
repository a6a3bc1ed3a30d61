"""Published reference values and the ten answers a row of Snow et al. 2008, where they stand beside the repository."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metier.core.agreement import Metric, cohen_kappa, fleiss_kappa, krippendorff_alpha, majority_vote
from metier.core.dawid_skene import ceiling, dawid_skene, resample
from metier.core.votes import Vote, vote_table

from .voting import AT, votes_by_coder

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
pytestmark = [pytest.mark.data, pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data")]


@pytest.fixture(scope="module")
def references() -> dict[str, Any]:
    return json.loads((DATA / "numeric_references" / "numeric_references.json").read_text())


def digits(value: float) -> int:
    """Digits after the point of a published figure."""
    return len(f"{value:.10f}".rstrip("0").partition(".")[2])


def test_fleiss_and_randolph_to_their_digits(references) -> None:
    checked = 0
    for entry in references["fleiss_kappa"]:
        found = fleiss_kappa(entry["counts"])
        if "expected" in entry:
            assert round(found.kappa, entry["decimals"]) == entry["expected"]
            checked += 1
            continue
        for name, value in (("fixed_marginal", found.kappa), ("free_marginal", found.free_marginal),
                            ("overall_agreement", found.agreement)):  # fmt: skip
            assert round(value, digits(entry[name])) == entry[name]
            checked += 1
    assert checked == 10


def test_fleiss_kappa_of_the_diagnoses(references) -> None:
    ratings = np.array(references["diagnoses_fleiss1971"]["ratings"])
    counts = np.stack([(ratings == label).sum(axis=1) for label in range(1, 6)], axis=1)
    assert round(fleiss_kappa(counts).kappa, 4) == 0.4302  # as its SOURCE.md states


def test_cohen_kappa_of_the_sas_table(references) -> None:
    entry = references["cohen_table10"]
    steps = np.abs(np.subtract.outer(range(3), range(3)))
    for expected, found in (
        (entry, cohen_kappa(entry["table"])),
        (entry["weighted_linear"], cohen_kappa(entry["table"], distance_KK=steps)),
    ):
        assert round(found.kappa, 4) == expected["kappa"]
        assert round(found.stderr, 4) == expected["ase"]
        assert [round(found.low, 4), round(found.high, 4)] == expected["ci95"]
        assert round(found.stderr_null, 4) == expected["ase_h0"]
        assert round(found.z, 4) == expected["z"]
        if "p1" in expected:
            assert round(found.p_value / 2, 4) == expected["p1"]  # one-sided
            assert round(found.p_value, 4) == expected["p2"]


def test_weighted_kappa_of_the_anxiety_ratings(references) -> None:
    entry = references["anxiety"]
    ratings = np.array(entry["flat_fortran_20x3"]).reshape(20, 3, order="F")
    own = {"weights_000111": [0, 0, 0, 1, 1, 1], "weights_001122": [0, 0, 1, 1, 2, 2]}
    checked = 0
    for name, expected in entry.items():
        if not name.startswith("kappa2_cols"):
            continue
        columns, rule = name.removeprefix("kappa2_cols").split("_", 1)
        first, second = ratings[:, int(columns[0]) - 1], ratings[:, int(columns[1]) - 1]
        labels = sorted({*first.tolist(), *second.tolist()})  # levels that nobody used are left out
        table = [[int(((first == a) & (second == b)).sum()) for b in labels] for a in labels]
        steps = np.abs(np.subtract.outer(range(len(labels)), range(len(labels))))
        distances = {"unweighted": None, "equal": steps, "squared": steps**2}
        # Own weights say how bad each number of steps is.
        distance = np.array(own[rule])[steps] if rule in own else distances[rule]
        found = cohen_kappa(table, distance_KK=distance)
        assert found.kappa == pytest.approx(expected["value"], abs=0.5 * 10 ** -digits(expected["value"]))
        assert found.z == pytest.approx(expected["z"], abs=0.5 * 10 ** -digits(expected["z"]))
        assert found.p_value == pytest.approx(expected["p"], abs=0.5 * 10 ** -digits(expected["p"]))
        checked += 1
    assert checked == 5


def test_alpha_of_the_wikipedia_example(references) -> None:
    entry = references["krippendorff_wikipedia"]
    table = vote_table(votes_by_coder(entry["coders"]))
    for name, expected in entry["expected_from_wikipedia"].items():
        found = krippendorff_alpha(table, metric=Metric(name), rng=np.random.default_rng(0), num_resamples=20)
        assert round(found.value, digits(expected)) == expected


def test_the_dawid_skene_toy(references) -> None:
    entry = references["dawid_skene_toy"]
    votes = [Vote(row_id=t, annotator=w, value=v, at=AT) for w, t, v in entry["answers_worker_task_label"]]
    fit = dawid_skene(vote_table(votes), smoothing=0)  # the published model has no smoothing
    found = {row: fit.table.labels[code] for row, code in zip(fit.table.rows, fit.label_N, strict=True)}
    assert found == entry["expected"]


def test_every_group_of_references_is_checked_here(references) -> None:
    # fairlearn_arrays holds inputs without expected values: there is nothing to meet.
    assert sorted(references) == [
        "anxiety", "cohen_table10", "dawid_skene_toy", "diagnoses_fleiss1971", "fairlearn_arrays", "fleiss_kappa",
        "krippendorff_wikipedia",
    ]  # fmt: skip
    assert not any("expected" in name for name in references["fairlearn_arrays"])


@pytest.fixture(scope="module")
def snow():
    with (DATA / "snow2008_rte" / "rte_labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    votes = [Vote(row_id=r["item"], annotator=r["worker"], value=r["response"], at=AT) for r in rows]
    return votes, {r["item"]: r["gold"] for r in rows}


def right(fit_or_vote, table, gold) -> float:
    truth = np.array([table.labels.index(gold[row]) for row in table.rows])
    if hasattr(fit_or_vote, "share_NK"):
        return float(fit_or_vote.share_NK[np.arange(len(truth)), truth].mean())
    return float((fit_or_vote.label_N == truth).mean())


def test_ten_answers_a_row_meet_known_figures(snow) -> None:
    votes, gold = snow
    table = vote_table(votes)
    assert right(majority_vote(table), table, gold) == pytest.approx(0.897, abs=0.0005)  # 89.7 % in Snow et al. 2008
    plain = dawid_skene(table, smoothing=0)
    assert right(plain, table, gold) == pytest.approx(0.9275, abs=0.001)
    assert right(dawid_skene(table), table, gold) == pytest.approx(0.9225, abs=0.001)


def test_with_few_answers_a_row_the_model_is_no_worse_than_the_majority(snow) -> None:
    votes, gold = snow
    gain = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(votes))
        left: dict[str, int] = {}
        kept = []
        for index in order.tolist():
            vote = votes[index]
            left[vote.row_id] = left.get(vote.row_id, 0) + 1
            if left[vote.row_id] <= 5:
                kept.append(vote)
        table = vote_table(kept)
        gain.append(right(dawid_skene(table), table, gold) - right(majority_vote(table), table, gold))
    assert min(gain) > -0.01
    assert float(np.mean(gain)) > 0.01


def test_the_models_own_ceiling_is_too_high_on_real_annotators(snow) -> None:
    # The reason why gold rows are asked for: these annotators share mistakes.
    votes, gold = snow
    table = vote_table(votes)
    fit = dawid_skene(table)
    found = ceiling(fit, resample(fit, rng=np.random.default_rng(0), num_resamples=20))
    assert found.fitted.low > right(fit, table, gold) + 0.03
