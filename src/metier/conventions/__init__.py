"""What a good reply obeys, written once: it validates the data, scores the models and guards the server."""

# The modules with checks are imported for their names: `register` puts them where `check = "..."` finds them.
from metier.conventions import formats as _formats
from metier.conventions import literal as _literal
from metier.conventions import numeric as _numeric
from metier.conventions import overlap as _overlap
from metier.conventions import own_code as _own_code
from metier.conventions import shape as _shape
from metier.conventions import structured as _structured
from metier.conventions.overlap import chrf, rouge_l
from metier.conventions.registry import Check, CheckResult, build_check, check_names, register
from metier.conventions.spec import Convention, describe, make_conventions
from metier.conventions.text import fold, gold_reply, row_name

__all__ = [
    "Check",
    "CheckResult",
    "Convention",
    "build_check",
    "check_names",
    "chrf",
    "describe",
    "fold",
    "gold_reply",
    "make_conventions",
    "register",
    "rouge_l",
    "row_name",
]

del _formats, _literal, _numeric, _overlap, _own_code, _shape, _structured
