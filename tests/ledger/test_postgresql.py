"""What is PostgreSQL's own: its URL, a lost connection, two projects on one server; the rest runs on both databases."""

import pytest

from metier.core.errors import MissingExtra, StoreError
from metier.ledger import Ledger, database, verify_chain
from metier.ledger.schema import alias

from .servers import NO_SERVER, SERVER_URL, only_postgresql

needs_server = pytest.mark.skipif(not SERVER_URL, reason=NO_SERVER)


def test_a_url_of_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(StoreError, match="ledger URL of kind 'mysql'; expected postgresql://user@host/database"):
        Ledger.open(tmp_path, url="mysql://db/metier")


def test_a_missing_driver_names_its_extra(tmp_path, monkeypatch):
    def absent(module, *, extra, why):
        raise MissingExtra(f"{why} needs {module!r}: pip install 'metier[{extra}]'")

    monkeypatch.setattr(database, "require", absent)
    with pytest.raises(MissingExtra, match=r"A ledger on PostgreSQL needs 'psycopg': pip install 'metier\[postgres\]'"):
        Ledger.open(tmp_path, url="postgresql://db/metier")


def test_a_url_that_cannot_be_read_is_refused_without_its_password(tmp_path):
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError, match="ledger URL cannot be read; expected postgresql://user@host:port") as caught:
        Ledger.open(tmp_path, url="postgresql://ana:se/cret@db:no/metier")
    assert "cret" not in str(caught.value)


def test_a_server_that_is_not_there_is_named(tmp_path):
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError, match=r"the database server cannot be reached \(.*\)\. Start it or correct the URL"):
        Ledger.open(tmp_path, url=f"postgresql:///metier?host={tmp_path}")


@needs_server
def test_a_database_that_is_not_there_is_named(tmp_path, places):
    url = places.server.create()
    places.server.drop(url)
    with pytest.raises(
        StoreError, match=r"refused the connection \(.*does not exist\)\. Check user, password and data"
    ):
        Ledger.open(tmp_path, url=url)


@only_postgresql
def test_events_refuse_to_be_changed_through_sql(project):
    import psycopg

    for statement in ("UPDATE event SET actor = 'eve'", "DELETE FROM event WHERE seq = 2", "TRUNCATE event"):
        with pytest.raises(psycopg.errors.RaiseException, match="events are append only"):
            project.place.run_sql(statement)


def cut_connections(places, place) -> None:
    """What a client sees when its server is restarted."""
    name = place.url.partition("?")[0].rpartition("/")[2]
    places.server.admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()", [name]
    )


@only_postgresql
def test_a_server_restarted_while_nothing_is_written_goes_unnoticed(project, places):
    cut_connections(places, project.place)
    seq = project.ledger.append("noted", {"a": 1}).seq
    cut_connections(places, project.place)
    assert project.ledger.head().seq == seq
    assert verify_chain(project.ledger) == []


@only_postgresql
@pytest.mark.parametrize("then", ["another record", "commit"])
def test_a_connection_lost_in_the_middle_leaves_nothing_half_written(project, places, then):
    head = project.ledger.head()
    expected = r"the connection to the database was lost \(.*\); nothing half-written was kept\. Run the same command"
    with pytest.raises(StoreError, match=expected), project.ledger.writing("moved") as transaction:
        transaction.put(alias, [{"name": "champion", "model_id": "m"}])
        cut_connections(places, project.place)
        if then == "another record":
            transaction.put(alias, [{"name": "challenger", "model_id": "n"}])
    assert project.ledger.head() == head
    assert verify_chain(project.ledger) == []
    with project.ledger.writing("moved") as transaction:
        assert transaction.put(alias, [{"name": "champion", "model_id": "m"}]) == 1
    assert verify_chain(project.ledger) == []


@only_postgresql
def test_writers_are_served_in_the_order_of_asking(project, places):
    """The lock is a queue: whoever came first writes first, however many wait."""
    import threading
    import time

    ledgers = [project.place.open(f"w{i}") for i in range(5)]
    threads = [threading.Thread(target=ledger.append, args=("noted", {"a": 1})) for ledger in ledgers]
    with project.ledger.writing("held") as transaction:
        transaction.note(first=True)
        for number, thread in enumerate(threads, 1):
            thread.start()
            while len(waiting(places)) < number:
                time.sleep(0.005)
    for thread, ledger in zip(threads, ledgers, strict=True):
        thread.join()
        ledger.close()
    assert [event.actor for event in project.ledger.events(kind="noted")] == [f"w{i}" for i in range(5)]


@only_postgresql
def test_writers_take_turns_whatever_the_server_isolates_by_default(project):
    """Under SERIALIZABLE the state before the lock would be read after it."""
    from concurrent.futures import ThreadPoolExecutor

    joint = "&" if "?" in project.place.url else "?"
    url = f"{project.place.url}{joint}options=-cdefault_transaction_isolation%3Dserializable"
    with Ledger.open(project.place.project_dir, url=url) as ledger, ThreadPoolExecutor(4) as pool:
        heads = list(pool.map(lambda i: ledger.append("noted", {"i": i}), range(20)))
    assert len({head.seq for head in heads}) == 20
    assert verify_chain(project.ledger) == []


def waiting(places) -> list:
    return list(places.server.admin.execute("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))


@only_postgresql
def test_two_projects_in_one_database_have_a_schema_each(place, tmp_path):
    place.run_sql("CREATE SCHEMA finance", "CREATE SCHEMA legal")
    for name in ("finance", "legal"):
        url = f"{place.url}{'&' if '?' in place.url else '?'}options=-csearch_path%3D{name}"
        with Ledger.open(tmp_path / name, url=url, actor=name) as ledger:
            ledger.append("noted", {"in": name})
            assert [event.actor for event in ledger.events()] == [name, name]
            assert verify_chain(ledger) == []


@only_postgresql
def test_two_projects_in_one_schema_are_refused(project, tmp_path):
    with pytest.raises(StoreError, match=r"begun with another project key than .*Give the URL of this project's own"):
        Ledger.open(tmp_path / "other", url=project.place.url)


@needs_server
def test_two_places_that_upgrade_one_database_at_once_do_it_once(places, tmp_path):
    """Their file locks are two, so the database's own lock has to do."""
    import shutil
    from concurrent.futures import ThreadPoolExecutor

    url = places.server.create()
    first = tmp_path / "first"
    Ledger.open(first).close()  # for its keys
    (first / ".metier" / "ledger.db").unlink()
    shutil.copytree(first, tmp_path / "second")
    with ThreadPoolExecutor(2) as pool:
        opened = list(pool.map(lambda name: Ledger.open(tmp_path / name, url=url), ("first", "second")))
    assert [ledger.head().seq for ledger in opened] == [1, 1]
    for ledger in opened:
        ledger.close()
    places.server.drop(url)
