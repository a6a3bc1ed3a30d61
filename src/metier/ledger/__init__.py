"""What happened to which row, dataset, question, look and model: written once, found again, tampering seen.

One project has one ledger (a SQLite file, `.metier/ledger.db`), one object store and two keys::

    with Ledger.open(project_dir) as ledger:
        question = freeze_question(ledger, config.question())
        record_rows(ledger, rows)
        head = ledger.head().hash

The SQL library is imported when the first name that needs it is used, not with this package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from metier.ledger.keys import project_key, seal_key
from metier.ledger.objects import ObjectStore, decrypt, encrypt

if TYPE_CHECKING:
    from metier.ledger.evidence import (
        BeforeLook,
        WrittenReport,
        before_look,
        findings_of,
        first_opened,
        record_before_look,
        record_report,
        written_reports,
    )
    from metier.ledger.history import Source, Transform, record_edges, record_source, record_transform
    from metier.ledger.ledger import Event, Head, Ledger, Transaction
    from metier.ledger.looks import (
        Look,
        LookState,
        OpenedLook,
        find_look,
        finish_look,
        look_id_of,
        looks_of,
        looks_on,
        open_look,
    )
    from metier.ledger.models import (
        ModelIdentity,
        ModelRecord,
        ModelState,
        aliases,
        find_model,
        move_alias,
        record_training,
        register_model,
        registered_models,
        set_model_state,
    )  # fmt: skip
    from metier.ledger.questions import (
        Question,
        SplitRecord,
        find_question,
        find_split,
        freeze_question,
        parts_of,
        record_split,
    )
    from metier.ledger.rows import (
        RowRecord,
        RowState,
        count_rows,
        find_row,
        members_of,
        record_dataset,
        record_rows,
        stored_rows,
    )  # fmt: skip
    from metier.ledger.runs import (
        Prediction,
        RunRecord,
        RunState,
        fail_run,
        finish_run,
        predict,
        predictions_of,
        record_actual,
        runs_of,
        spend,
        spent,
        start_run,
    )  # fmt: skip
    from metier.ledger.seal import SealRecord, find_seal, seal_holdout
    from metier.ledger.verify import Problem, verify_chain, verify_objects

__all__ = [
    "BeforeLook", "Event", "Head", "Ledger", "Look", "LookState", "ModelIdentity", "ModelRecord", "ModelState",
    "ObjectStore", "OpenedLook", "Prediction", "Problem", "Question", "RowRecord", "RowState", "RunRecord", "RunState",
    "SealRecord", "Source", "SplitRecord", "Transaction", "Transform", "WrittenReport", "aliases", "before_look",
    "count_rows", "decrypt", "encrypt", "fail_run", "find_look", "find_model", "find_question", "find_row", "find_seal",
    "find_split", "findings_of", "finish_look", "finish_run", "first_opened", "freeze_question", "look_id_of",
    "looks_of", "looks_on", "members_of", "move_alias", "open_look", "parts_of", "predict", "predictions_of",
    "project_key", "record_actual", "record_before_look", "record_dataset", "record_edges", "record_report",
    "record_rows", "record_source", "record_split", "record_training", "record_transform", "register_model",
    "registered_models", "runs_of", "seal_holdout", "seal_key", "set_model_state", "spend", "spent", "start_run",
    "stored_rows", "verify_chain", "verify_objects", "written_reports",
]  # fmt: skip

_MODULE_OF = {
    "evidence": (
        "BeforeLook", "WrittenReport", "before_look", "findings_of", "first_opened", "record_before_look",
        "record_report", "written_reports",
    ),
    "history": ("Source", "Transform", "record_edges", "record_source", "record_transform"),
    "ledger": ("Event", "Head", "Ledger", "Transaction"),
    "looks": (
        "Look", "LookState", "OpenedLook", "find_look", "finish_look", "look_id_of", "looks_of", "looks_on",
        "open_look",
    ),
    "models": (
        "ModelIdentity", "ModelRecord", "ModelState", "aliases", "find_model", "move_alias",
        "record_training", "register_model", "registered_models", "set_model_state",
    ),
    "questions": (
        "Question", "SplitRecord", "find_question", "find_split", "freeze_question", "parts_of", "record_split",
    ),
    "rows": (
        "RowRecord", "RowState", "count_rows", "find_row", "members_of", "record_dataset", "record_rows", "stored_rows",
    ),
    "runs": (
        "Prediction", "RunRecord", "RunState", "fail_run", "finish_run", "predict", "predictions_of", "record_actual",
        "runs_of", "spend", "spent", "start_run",
    ),
    "seal": ("SealRecord", "find_seal", "seal_holdout"),
    "verify": ("Problem", "verify_chain", "verify_objects"),
}  # fmt: skip


def __getattr__(name: str) -> Any:  # Any: whatever the module behind the name holds
    """The public name, its module imported on first use."""
    for module, names in _MODULE_OF.items():
        if name in names:
            value = getattr(import_module(f"{__name__}.{module}"), name)  # getattr: the name is listed above
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
