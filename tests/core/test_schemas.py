"""The published JSON Schemas are those of the code, and they refuse unknown keys."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import jsonschema
import pytest

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = ROOT / "src" / "metier" / "core" / "schemas"
spec = importlib.util.spec_from_file_location("schemas", ROOT / "checks" / "schemas.py")
assert spec is not None and spec.loader is not None
generator = importlib.util.module_from_spec(spec)
spec.loader.exec_module(generator)


@pytest.mark.parametrize("name", ["row.json", "report.json", "project.json"])
def test_the_schema_files_do_not_drift(name: str) -> None:
    assert json.loads((SCHEMAS / name).read_text()) == generator.schemas()[name], (
        "run `make docs` and commit the change"
    )


def test_a_row_with_an_unknown_key_is_refused() -> None:
    schema = json.loads((SCHEMAS / "row.json").read_text())
    row = {"origin_id": "o", "row_id": "r", "messages": [{"role": "user"}], "meta": {"source": "a", "source_row": 0}}
    jsonschema.validate(row, schema)
    with pytest.raises(jsonschema.ValidationError, match="colour"):
        jsonschema.validate({**row, "colour": "red"}, schema)
