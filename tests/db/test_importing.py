"""CSV files become tables with the types a person would have chosen."""

import gzip
from datetime import UTC, datetime

import psycopg
import pytest

from recsys import config
from recsys.errors import ConfigError, SourceError
from recsys.importing import import_csv, import_interactions


@pytest.fixture
def csv_file(tmp_path):
    def write(text, name="data.csv"):
        path = tmp_path / name
        data = text if isinstance(text, bytes) else text.encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write


def types(imported):
    return {column.name: column.type for column in imported.columns}


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "-5", "9223372036854775807"], "bigint"),
        (["1362062307"], "bigint"),  # seconds since 1970 are left as they are
        (["1", "2.5", "1e-3"], "double precision"),
        (["0111161", "2171847"], "text"),
        (["85123A", "71053"], "text"),
        (["12345678901234567890"], "text"),
        (["1", "x"], "text"),
        (["true", "False", "t"], "boolean"),
        (["2010-12-01 08:26:00", "2011-01-01"], "timestamp"),
        (["2010-12-01T08:26:00Z", "2011-01-01 10:00+02:00"], "timestamptz"),
        (["2010-12-01 08:26:00", "2011-01-01 10:00Z"], "text"),
        (["2013-02-30"], "text"),
        (["01/02/2013"], "text"),
        (["6f9619ff-8b86-d011-b42d-00c04fc964ff"], "uuid"),
        (["", ""], "text"),
        (["", "7"], "bigint"),
        (["٣"], "text"),  # a digit to Python, not to Postgres
    ],
)
def test_type_is_the_narrowest_that_every_cell_fits(db, csv_file, cells, expected):
    path = csv_file("id,value\n" + "".join(f"{i},{c}\n" for i, c in enumerate(cells)))

    imported = import_csv(db, path, "t")

    assert types(imported)["value"] == expected
    kept = db.execute("select count(*), count(value) from t").fetchone()
    assert kept == (len(cells), len([c for c in cells if c]))


def test_cells_arrive_unchanged(db, csv_file):
    written = {
        '"a, and ""quotes"""': 'a, and "quotes"',
        '5" nail': '5" nail',  # Postgres itself would take this for an open quote
        '"two\nlines"': "two\nlines",
        "\\.": "\\.",
        "\\N": "\\N",
        " 🎁 عربي ": " 🎁 عربي ",
    }

    import_csv(db, csv_file("note\n" + "\n".join(written), "data.csv.gz"), "t")

    found = [row[0] for row in db.execute("select note from t")]
    assert found == list(written.values())


def test_headings_become_column_names(db, csv_file):
    path = csv_file("\ufeffCustomer ID;Größe (cm);;2nd\n1;2;3;4\n")

    imported = import_csv(db, path, "t")

    assert list(types(imported)) == ["customer_id", "größe_cm", "column_3", "_2nd"]


def test_forced_text_keeps_numbers_as_written(db, csv_file):
    path = csv_file("id,year\n1,2001\n2,1999\n")

    imported = import_csv(db, path, "t", text=["id"])

    assert types(imported) == {"id": "text", "year": "bigint"}


def test_existing_table_is_kept_unless_replaced(db, csv_file):
    import_csv(db, csv_file("a\n1x\n"), "t")

    with pytest.raises(ConfigError, match="exists already"):
        import_csv(db, csv_file("a\n2x\n"), "t")
    assert db.execute("select a from t").fetchall() == [("1x",)]

    import_csv(db, csv_file("b\n3x\n"), "t", replace=True)
    assert db.execute("select b from t").fetchall() == [("3x",)]


def test_table_may_name_a_schema(db, csv_file):
    db.execute("create schema shop")

    import_csv(db, csv_file("a,b\n1,2\n"), "shop.t")

    assert db.execute("select a, b from shop.t").fetchall() == [(1, 2)]


@pytest.mark.parametrize("table", ["", "a b", "T", 't"; drop table x; --', "a.b.c"])
def test_unusable_table_names_are_refused(db, csv_file, table):
    with pytest.raises(ConfigError, match="table name"):
        import_csv(db, csv_file("a,b\n1,2\n"), table)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "is empty"),
        ("\n", "is empty"),
        ("1,2\n3,4\n", "line 1: the first line looks like data"),
        ("a,a\n1,2\n", "line 1: two columns are named 'a'"),
        ("a,b\n1,2\n1,2,3\n", r"line 3: 3 cells, but the header names 2"),
        ('a,b\n"x\ny",2\n1\n', r"line 4: 1 cells"),
        ("a,b\n1,caf\xe9\n".encode("latin-1"), r"line 2: not UTF-8 \(byte 6, 0xe9\)"),
        ("a,b\n1,x\0y\n", "line 2: a NUL"),
    ],
)
def test_bad_files_name_the_line_and_leave_nothing(db, csv_file, data, message):
    with pytest.raises(SourceError, match=message):
        import_csv(db, csv_file(data), "t")

    assert db.execute("select to_regclass('t')").fetchone() == (None,)


def test_missing_and_broken_files_are_source_errors(db, tmp_path, csv_file):
    with pytest.raises(SourceError, match="No such file"):
        import_csv(db, tmp_path / "none.csv", "t")

    whole = csv_file("a,b\n" + "1,2\n" * 10_000, "data.csv.gz")
    whole.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(SourceError, match="cut off"):
        import_csv(db, whole, "t")

    whole.write_bytes(b"no gzip")
    with pytest.raises(SourceError, match="cannot read"):
        import_csv(db, whole, "t")


def test_unknown_text_column_is_refused(db, csv_file):
    with pytest.raises(ConfigError, match="no column 'isbn'"):
        import_csv(db, csv_file("a,b\n1,2\n"), "t", text=["isbn"])


def test_a_view_on_the_old_table_stops_a_replacement(db, csv_file):
    import_csv(db, csv_file("a,b\n1,2\n"), "t")
    db.execute("create view v as select a from t")

    with pytest.raises(ConfigError, match="view v depends on"):
        import_csv(db, csv_file("a,b\n3,4\n"), "t", replace=True)

    assert db.execute("select a from v").fetchall() == [(1,)]


def test_progress_counts_every_byte_of_both_passes(db, csv_file):
    class Recorder:
        def __init__(self):
            self.stages = {}

        def stage(self, name, total=None):
            self.current = name
            self.stages[name] = [total, 0]
            return self

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def advance(self, n=1, note=""):
            self.stages[self.current][1] += n

    recorder = Recorder()
    path = csv_file("a,b\n" + "1,2\n" * 25_000)

    import_csv(db, path, "t", progress=recorder)

    size = path.stat().st_size
    assert recorder.stages == {
        "read data.csv": [size, size],
        "load t": [size, size],
    }


def test_interactions_become_a_table_and_a_model(db, csv_file, tmp_path):
    path = csv_file(
        "user_id,item_id,timestamp,kind\n"
        "7,0111161,1362062307,view\n7,2171847,1362062999,purchase\n"
    )
    toml = tmp_path / "recsys.toml"

    imported = import_interactions(db, path, "films", toml)

    assert imported.configured == toml
    first = db.execute("select * from films_interaction order by item_id").fetchone()
    assert first == (
        7,
        "0111161",
        datetime(2013, 2, 28, 14, 38, 27, tzinfo=UTC),
        "view",
    )
    model = config.load(toml).model("films")
    assert (model.user_id, model.item_id) == ("bigint", "text")
    assert model.interactions.weights == {"purchase": 5.0, "view": 1.0}
    assert db.execute(model.items.sql).fetchall() == [("0111161",), ("2171847",)]
    assert len(db.execute(model.interactions.sql).fetchall()) == 2


def test_declared_record_statement_writes_to_the_table(db, csv_file, tmp_path):
    path = csv_file("user_id,item_id,occurred_at\n7,1,2026-01-31 12:00:00\n")
    import_interactions(db, path, "films", tmp_path / "recsys.toml")
    model = config.load(tmp_path / "recsys.toml").model("films")

    now = datetime(2026, 2, 1, tzinfo=UTC)
    values = {
        "user_id": 8,
        "item_id": 2,
        "kind": "view",
        "occurred_at": now,
        "request_id": None,
    }
    db.execute(model.interactions.record, values)

    noon = datetime(2026, 1, 31, 12, tzinfo=UTC)  # a time without a zone is UTC
    rows = db.execute("select * from films_interaction").fetchall()
    assert rows == [(7, 1, noon), (8, 2, now)]


def test_interactions_without_time_or_kind_need_neither(db, csv_file, tmp_path):
    toml = tmp_path / "recsys.toml"
    toml.write_text("# mine\n")

    imported = import_interactions(
        db, csv_file("user_id,item_id\n0,0\n0,1\n"), "split", toml
    )

    assert types(imported) == {"user_id": "bigint", "item_id": "bigint"}
    assert toml.read_text().startswith("# mine\n\n# split: made by")
    assert "occurred_at" not in config.load(toml).model("split").interactions.sql


def test_a_declared_model_is_left_alone(db, csv_file, tmp_path):
    toml = tmp_path / "recsys.toml"
    path = csv_file("user_id,item_id\n0,0\n")
    import_interactions(db, path, "split", toml)
    before = toml.read_text()

    imported = import_interactions(db, path, "split", toml, replace=True)

    assert imported.configured is None
    assert toml.read_text() == before


def test_milliseconds_are_recognised(db, csv_file, tmp_path):
    path = csv_file("user_id,item_id,timestamp\n1,2,1362062307500\n")

    import_interactions(db, path, "films", tmp_path / "recsys.toml")

    row = db.execute("select occurred_at from films_interaction").fetchone()
    assert row == (datetime(2013, 2, 28, 14, 38, 27, 500_000, tzinfo=UTC),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user,item\n1,2\n", "no column user_id"),
        ("user_id,item_id\n1,2\n,3\n", "line 3: user_id is empty"),
        ("user_id,item_id\n", "no rows"),
        ("user_id,item_id,timestamp\n1,2,yesterday\n", "timestamp is not a time"),
    ],
)
def test_interactions_that_cannot_be_used_are_refused(
    db, csv_file, tmp_path, text, message
):
    with pytest.raises(SourceError, match=message):
        import_interactions(db, csv_file(text), "films", tmp_path / "recsys.toml")

    assert not (tmp_path / "recsys.toml").exists()
    assert db.execute("select to_regclass('films_interaction')").fetchone() == (None,)


def test_caller_decides_whether_the_import_stays(db, csv_file):
    import_csv(db, csv_file("a,b\n1,2\n"), "t")

    db.rollback()

    with pytest.raises(psycopg.errors.UndefinedTable):
        db.execute("select * from t")
