"""The same ledger on PostgreSQL; skips itself without psycopg and METIER_TEST_POSTGRES (a URL of an empty database)."""

import os

import pytest

from metier.core.errors import MissingExtra, StoreError
from metier.ledger import Ledger, aliases, database, verify_chain, verify_objects

from .conftest import fill, fill_more

URL = os.environ.get("METIER_TEST_POSTGRES", "")


def test_a_url_of_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(StoreError, match="ledger URL of kind 'mysql'; expected postgresql://user@host/database"):
        Ledger.open(tmp_path, url="mysql://db/metier")


def test_a_missing_driver_names_its_extra(tmp_path, monkeypatch):
    def absent(module, *, extra, why):
        raise MissingExtra(f"{why} needs {module!r}: pip install 'metier[{extra}]'")

    monkeypatch.setattr(database, "require", absent)
    with pytest.raises(MissingExtra, match=r"A ledger on PostgreSQL needs 'psycopg': pip install 'metier\[postgres\]'"):
        Ledger.open(tmp_path, url="postgresql://db/metier")


@pytest.mark.skipif(not URL, reason="METIER_TEST_POSTGRES names no database")
def test_the_ledger_on_postgresql_holds_refuses_and_verifies(tmp_path):
    from sqlalchemy import text

    pytest.importorskip("psycopg")
    with Ledger.open(tmp_path, url=URL) as ledger:
        project = fill(ledger)
        fill_more(project)
        assert verify_chain(ledger, known_heads=[ledger.head().hash]) == []
        assert verify_objects(ledger, project.store) == []
        assert list(aliases(ledger)) == ["champion"]
        with (
            pytest.raises(StoreError, match="append only"),
            database.writing(ledger.engine) as connection,
        ):
            connection.execute(text("DELETE FROM event"))
        with database.writing(ledger.engine) as connection:
            connection.execute(text("UPDATE look SET alpha = 0.5"))
        (problem,) = verify_chain(ledger)
        assert "table look" in str(problem)
        with Ledger.open(tmp_path, url=URL) as again:
            assert again.head() == ledger.head()
