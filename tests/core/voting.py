"""Votes for tests: written by hand as text, or drawn from annotators whose confusion is known."""

from __future__ import annotations

import numpy as np

from metier.core.votes import Vote, VoteTable

AT = "2026-03-01T09:30:00.000000Z"


def votes_by_coder(coders: list[str]) -> list[Vote]:
    """One text a coder, one value a row, `*` where there is none."""
    return [
        Vote(row_id=f"r{i:02d}", annotator=f"c{j}", value=value, at=AT)
        for j, line in enumerate(coders)
        for i, value in enumerate(line.split())
        if value != "*"
    ]


def drawn_table(
    rng: np.random.Generator, truth_N: np.ndarray, confusion_JKK: np.ndarray, votes_a_row: int
) -> VoteTable:
    """Each row labelled by some of the annotators, drawn at random, each by its confusion matrix."""
    num_rows, num_annotators = len(truth_N), len(confusion_JKK)
    annotator_V = np.sort(rng.random((num_rows, num_annotators)).argsort(axis=1)[:, :votes_a_row], axis=1).ravel()
    row_V = np.repeat(np.arange(num_rows), votes_a_row)
    upto_VK = np.cumsum(confusion_JKK[annotator_V, truth_N[row_V]], axis=1)[:, :-1]
    label_V = (rng.random((len(row_V), 1)) > upto_VK).sum(axis=1)
    return VoteTable(
        rows=tuple(f"r{i:05d}" for i in range(num_rows)),
        annotators=tuple(f"a{j:02d}" for j in range(num_annotators)),
        labels=tuple("abcdefgh"[: confusion_JKK.shape[1]]),
        row_V=row_V, annotator_V=annotator_V, label_V=label_V,
        seconds_V=np.full(len(row_V), np.nan), num_replaced=0,
    )  # fmt: skip


def votes_of_table(table: VoteTable) -> list[Vote]:
    """The votes of a table, one by one."""
    return [
        Vote(row_id=table.rows[row], annotator=table.annotators[annotator], value=table.labels[label], at=AT)
        for row, annotator, label in zip(table.row_V, table.annotator_V, table.label_V, strict=True)
    ]


def one_coin(accuracy_J: list[float], num_labels: int = 2) -> np.ndarray:
    """Confusion matrices of annotators who are right with a given chance, whatever the label."""
    accuracy = np.array(accuracy_J)[:, None, None]
    eye = np.eye(num_labels)
    return accuracy * eye + (1 - accuracy) / (num_labels - 1) * (1 - eye)
