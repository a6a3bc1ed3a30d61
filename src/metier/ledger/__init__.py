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

from metier.ledger.keys import project_key, seal_key, sign, signed_by_project
from metier.ledger.objects import ObjectStore, decrypt, encrypt

if TYPE_CHECKING:
    from metier.ledger.erasure import (
        ModelPlan,
        begin_erasure,
        begun_erasures,
        copies_of,
        count_parts,
        count_votes,
        erase_rows,
        erasures,
        finish_erasure,
        origins_about,
        plan_models,
        referenced_objects,
        require_whole_objects,
        retire_models,
        row_ids_of,
        subjects_in_packs,
    )
    from metier.ledger.evidence import (
        BeforeLook,
        WrittenReport,
        before_look,
        facts_of_looks,
        findings_of,
        first_opened,
        record_before_look,
        record_report,
        written_reports,
    )
    from metier.ledger.history import RowHistory
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
        descendants,
        find_model,
        move_alias,
        record_parent,
        record_training,
        register_model,
        registered_models,
        set_model_state,
    )  # fmt: skip
    from metier.ledger.packs import (
        PACK_ROWS,
        is_pack,
        pack_ids,
        pack_rows,
        unpack_rows,
        without_rows,
    )
    from metier.ledger.persons import (
        PartRow,
        num_erased,
        record_destroyed,
        record_restored,
        record_subjects,
        restored_rows,
        stored_parts,
    )
    from metier.ledger.problems import Problem
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
        scored_predictions,
        spend,
        spent,
        start_run,
    )  # fmt: skip
    from metier.ledger.seal import SealRecord, find_seal, seal_holdout
    from metier.ledger.sources import Source, Transform, record_edges, record_source, record_transform
    from metier.ledger.subjects import (
        SubjectKeys,
        subject_hash,
    )
    from metier.ledger.tracing import row_history
    from metier.ledger.verify import verify_chain, verify_model_files, verify_objects
    from metier.ledger.votes import record_votes, votes_of

__all__ = [
    "BeforeLook", "Event", "Head", "Ledger", "Look", "LookState", "ModelIdentity", "ModelPlan", "ModelRecord",
    "ModelState", "ObjectStore", "OpenedLook", "PACK_ROWS", "PartRow", "Prediction", "Problem", "Question",
    "RowHistory", "RowRecord", "RowState", "RunRecord", "RunState", "SealRecord", "Source", "SplitRecord",
    "SubjectKeys", "Transaction", "Transform", "WrittenReport", "aliases", "before_look", "begin_erasure",
    "begun_erasures", "copies_of", "count_parts", "count_rows", "count_votes", "decrypt", "descendants", "encrypt",
    "erase_rows", "erasures", "fail_run", "find_look", "find_model", "find_question", "find_row", "find_seal",
    "facts_of_looks", "find_split", "findings_of", "finish_erasure", "finish_look", "finish_run", "first_opened",
    "freeze_question",
    "is_pack", "look_id_of", "looks_of", "looks_on", "members_of", "move_alias", "num_erased", "open_look",
    "origins_about", "pack_ids", "pack_rows", "parts_of", "plan_models", "predict", "predictions_of", "project_key",
    "record_actual", "record_before_look", "record_dataset", "record_destroyed", "record_edges", "record_parent",
    "record_report", "record_restored", "record_rows", "record_source", "record_split", "record_subjects",
    "record_training", "record_transform", "record_votes", "referenced_objects", "register_model",
    "registered_models", "require_whole_objects", "restored_rows", "retire_models", "row_history", "row_ids_of",
    "runs_of", "scored_predictions", "seal_holdout", "seal_key", "set_model_state", "sign", "signed_by_project",
    "spend", "spent", "start_run", "stored_parts", "stored_rows", "subject_hash", "subjects_in_packs", "unpack_rows",
    "verify_chain", "verify_model_files", "verify_objects", "votes_of", "without_rows", "written_reports",
]  # fmt: skip

_MODULE_OF = {
    "votes": ("record_votes", "votes_of"),
    "erasure": (
        "ModelPlan",
        "begin_erasure",
        "begun_erasures",
        "copies_of",
        "count_parts",
        "count_votes",
        "erase_rows",
        "erasures",
        "finish_erasure",
        "origins_about",
        "plan_models",
        "referenced_objects",
        "require_whole_objects",
        "subjects_in_packs",
        "retire_models",
        "row_ids_of",
    ),
    "packs": (
        "PACK_ROWS",
        "is_pack",
        "pack_ids",
        "pack_rows",
        "unpack_rows",
        "without_rows",
    ),
    "persons": (
        "PartRow",
        "num_erased",
        "record_destroyed",
        "record_restored",
        "record_subjects",
        "restored_rows",
        "stored_parts",
    ),
    "subjects": (
        "SubjectKeys",
        "subject_hash",
    ),
    "evidence": (
        "BeforeLook", "WrittenReport", "before_look", "facts_of_looks", "findings_of", "first_opened",
        "record_before_look", "record_report", "written_reports",
    ),
    "history": ("RowHistory",),
    "ledger": ("Event", "Head", "Ledger", "Transaction"),
    "looks": (
        "Look", "LookState", "OpenedLook", "find_look", "finish_look", "look_id_of", "looks_of", "looks_on",
        "open_look",
    ),
    "models": (
        "ModelIdentity", "ModelRecord", "ModelState", "aliases", "descendants", "find_model", "move_alias",
        "record_parent", "record_training", "register_model", "registered_models", "set_model_state",
    ),
    "problems": ("Problem",),
    "questions": (
        "Question", "SplitRecord", "find_question", "find_split", "freeze_question", "parts_of", "record_split",
    ),
    "rows": (
        "RowRecord", "RowState", "count_rows", "find_row", "members_of", "record_dataset", "record_rows", "stored_rows",
    ),
    "runs": (
        "Prediction", "RunRecord", "RunState", "fail_run", "finish_run", "predict", "predictions_of", "record_actual",
        "runs_of", "scored_predictions", "spend", "spent", "start_run",
    ),
    "seal": ("SealRecord", "find_seal", "seal_holdout"),
    "sources": ("Source", "Transform", "record_edges", "record_source", "record_transform"),
    "tracing": ("row_history",),
    "verify": ("verify_chain", "verify_model_files", "verify_objects"),
}  # fmt: skip


def __getattr__(name: str) -> Any:  # Any: whatever the module behind the name holds
    """The public name, its module imported on first use."""
    for module, names in _MODULE_OF.items():
        if name in names:
            value = getattr(import_module(f"{__name__}.{module}"), name)  # getattr: the name is listed above
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
