"""metier: from raw domain rows to a tuned, tested language model, and the evidence whether it was worth it.

>>> import metier
>>> metier.Project.load("support").run().verdict.outcome  # doctest: +SKIP
<Outcome.WORTH_IT: 'WORTH_IT'>
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metier.project import Project

__all__ = ["Project", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:  # Any: the module attribute protocol of Python
    """`Project`, imported on first use: importing metier loads no heavy package."""
    if name == "Project":
        from metier.project import Project

        return Project
    raise AttributeError(f"module 'metier' has no attribute {name!r}")
