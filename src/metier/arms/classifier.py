"""The linear head of the arms that learn from rows without a language model."""

from __future__ import annotations

import warnings
from typing import Any

from numpy.typing import NDArray

__all__ = ["linear_head"]


def linear_head(matrix: Any, label_N: NDArray[Any], *, strength: float) -> Any:  # Any: sparse matrix, fitted model
    """Logistic regression of N rows, (N, features), on their labels; `strength` is the inverse of its penalty."""
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        # Few rows of many labels are what a curve's smallest part has: no sign that the labels are numbers.
        warnings.filterwarnings("ignore", message="The number of unique classes is greater", category=UserWarning)
        return LogisticRegression(C=strength, max_iter=2000).fit(matrix, label_N)
