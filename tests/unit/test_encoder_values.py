"""Raw cells to graph inputs: types, missing values, garbage, and the SQL."""

import math
import time
from datetime import UTC, date, datetime
from decimal import Decimal

import numpy as np
import pytest

from recsys.config import Feature
from recsys.encoder.values import (
    MAX_KEY,
    MAX_LIST,
    input_name,
    json_projection,
    number_of,
    prepare,
    prepare_row,
    projection,
)
from recsys.errors import SourceError

BRAND = Feature("brand", "category")
TAGS = Feature("tags", "categories", separator=",")
TITLE = Feature("title", "text")
PRICE = Feature("price", "number")
MADE = Feature("made", "time")
IMAGE = Feature("image", "vector", dim=2)
ALL = (BRAND, TAGS, TITLE, PRICE, MADE, IMAGE)


def one(feature, value):
    feeds = prepare("item", [feature], {feature.name: [value]}, 1)
    return feeds[input_name("item", feature)][0]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ""),
        ("", ""),
        ("  ", ""),
        (" Acme ", "Acme"),
        ("é", "é"),
        ("e\u0301", "é"),
        (7, "7"),
        (7.0, "7"),
        (0.5, "0.5"),
        (math.nan, ""),
        (True, "true"),
        ("a\ud800", "a?"),
        ("x" * 10_000_000, "x" * MAX_KEY),
    ],
)
def test_category_is_the_text_postgres_prints(value, expected):
    assert one(BRAND, value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ""),
        ("a\x1f b \x1f\x1fa", "a\x1fb"),
        (["a", None, "b"], "a\x1fb"),
        (("a\x1fb", 3), "a\x1fb\x1f3"),
        (5, "5"),
        ([], ""),
    ],
)
def test_categories_are_distinct_trimmed_keys(value, expected):
    assert one(TAGS, value) == expected


def test_a_list_is_cut_whatever_its_form():
    keys = [str(i) for i in range(MAX_LIST + 5)]

    cut = one(TAGS, "\x1f".join(keys))

    assert cut == one(TAGS, keys) == "\x1f".join(keys[:MAX_LIST])
    nested = one(TAGS, ["\x1f".join("abcd")] * MAX_LIST + ["\x1f".join(keys)])
    assert nested == "a\x1fb\x1fc\x1fd"
    assert one(TAGS, "\x1f" * 10_000_000) == ""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.5, 1.5),
        (Decimal("2.5"), 2.5),
        (3, 3.0),
        (True, 1.0),
        ("4.5", 4.5),
        ("0x1F", 31.0),
        ("1e300", math.nan),
        (np.float32(0.5), 0.5),
        (None, math.nan),
        (math.nan, math.nan),
        (math.inf, math.nan),
        (-math.inf, math.nan),
        ("NaN", math.nan),
        ("Infinity", math.nan),
        (1e39, math.nan),
        (-1e300, math.nan),
        (10**400, math.nan),
    ],
)
def test_number_is_finite_float32_or_missing(value, expected):
    np.testing.assert_equal(one(PRICE, value)[0], expected)


@pytest.mark.parametrize(
    "value",
    [
        1_700_000_000.0,
        datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC),
        datetime(2023, 11, 14, 22, 13, 20),
        "1700000000",
    ],
)
def test_time_is_epoch_seconds(value):
    assert one(MADE, value)[0] == 1_700_000_000.0


def test_date_is_midnight_and_infinity_is_missing():
    assert one(MADE, date(1970, 1, 2))[0] == 86_400
    assert math.isnan(one(MADE, math.inf)[0])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("[0.5,-1]", [0.5, -1]),
        ("{0.5,1e-05}", [0.5, 1e-5]),
        ([3, 4], [3, 4]),
        (np.array([1, 2], np.float16), [1, 2]),
        (None, [0, 0]),
        ("{}", [0, 0]),
        ("{1,NULL}", [0, 0]),
        ("{1,NaN}", [0, 0]),
        ("{1,-Infinity}", [0, 0]),
        ([1.0, 1e39], [0, 0]),
    ],
)
def test_vector_is_finite_or_zero(value, expected):
    np.testing.assert_array_equal(one(IMAGE, value), np.array(expected, np.float32))


def test_vector_of_wrong_length_names_feature_and_lengths():
    with pytest.raises(SourceError, match=r"'image' has dim = 2.* 3 numbers") as error:
        one(IMAGE, "[1,2,3]")

    assert "recsys.toml" in error.value.hint


@pytest.mark.parametrize(
    ("feature", "value"),
    [(PRICE, "cheap"), (PRICE, "1e400"), (MADE, object()), (IMAGE, "{{1},{2}}")],
)
def test_wrong_type_names_the_feature_and_the_value(feature, value):
    with pytest.raises(SourceError, match=feature.name) as caught:
        one(feature, value)

    assert repr(str(value)[:40]) in str(caught.value)


def test_absent_columns_are_missing_and_lengths_are_checked():
    feeds = prepare("user", ALL, {}, 2)

    assert feeds["user.brand"].tolist() == ["", ""]
    assert np.isnan(feeds["user.price"]).all()
    assert feeds["user.image"].shape == (2, 2)
    with pytest.raises(ValueError, match="brand"):
        prepare("user", ALL, {"brand": ["a"]}, 2)


def test_dtypes_and_shapes_also_of_no_rows():
    for n in (0, 1, 3):
        feeds = prepare("item", ALL, {}, n)
        found = {name: (a.dtype.char, a.shape) for name, a in feeds.items()}
        assert found == {
            "item.brand": ("O", (n,)),
            "item.tags": ("O", (n,)),
            "item.title": ("O", (n,)),
            "item.price": ("d", (n, 1)),
            "item.made": ("d", (n, 1)),
            "item.image": ("f", (n, 2)),
        }


def test_one_row_is_prepared_as_in_a_batch():
    row = {
        "brand": "é ",
        "tags": "b\x1fa",
        "title": "Ünder the Sea",
        "price": 3.25,
        "made": 1e9,
        "image": "[1,2]",
    }

    single = prepare_row("item", ALL, row)
    batch = prepare("item", ALL, {k: [None, v] for k, v in row.items()}, 2)

    for name, value in single.items():
        assert value.dtype == batch[name].dtype
        np.testing.assert_array_equal(value[0], batch[name][1])


def test_projection_quotes_names_and_casts():
    features = (Feature("order", "category"), PRICE, MADE, IMAGE)

    assert projection(features, "s") == (
        'left((s."order")::text, 512) as "order", (s."price")::float8 as "price", '
        'extract(epoch from s."made")::float8 as "made", (s."image")::text as "image"'
    )
    assert projection((), "s") == ""


def test_projection_of_lists():
    arrays = Feature("tags", "categories")
    quoted = Feature("tags", "categories", separator="%'é")

    assert projection([arrays], "s") == (
        r"""left(array_to_string(s."tags", E'\x1f'), 262656) as "tags" """.strip()
    )
    assert projection([quoted], "s") == (
        r"""left(replace((s."tags")::text, E'\x25\x27\U000000e9', E'\x1f'), 262656)"""
        ' as "tags"'
    )


def test_json_projection_splits_at_fifty_features():
    many = [Feature(f"f{i}", "number") for i in range(51)]

    assert json_projection((), "s") == "'{}'::jsonb"
    assert json_projection([PRICE], "s") == (
        """jsonb_build_object('price', (s."price")::float8)"""
    )
    assert json_projection(many, "s").count("jsonb_build_object(") == 2


def test_projection_and_prepare_agree_on_a_server(server):
    """What Postgres returns for every type is what ``prepare`` was written for."""
    psycopg = pytest.importorskip("psycopg")
    features = (*ALL, Feature("list", "categories"))
    features = tuple(
        Feature("tags", "categories", separator="%") if f is TAGS else f
        for f in features
    )
    source = """select true as brand, 'x%% y' as tags, 'Hi' as title,
        'infinity'::numeric as price, timestamptz '1970-01-02 00:00:00+00' as made,
        array[1.5, null]::real[] as image, array['a', null, 'b'] as list"""
    with psycopg.connect(server) as conn:
        select = f"select {projection(features, 's')} from ({source}) s"
        values = conn.execute(select, {}).fetchone()
        (record,) = conn.execute(
            f"select {json_projection(features, 's')} from ({source}) s", {}
        ).fetchone()

    row = dict(zip([f.name for f in features], values, strict=True))
    for cells in (row, record):
        feeds = prepare_row("user", features, cells)
        assert feeds["user.brand"].tolist() == ["true"]
        assert feeds["user.tags"].tolist() == ["x\x1fy"]
        assert feeds["user.list"].tolist() == ["a\x1fb"]
        assert np.isnan(feeds["user.price"]).all()
        assert feeds["user.made"].tolist() == [[86_400.0]]
        assert not feeds["user.image"].any()


@pytest.mark.parametrize(
    "cell",
    [
        "word ",
        "longwordwithoutend",
        "é",  # precomposed
        "e\u0301",  # NFC and NFKC join it after the cut
        "😀 ",
        " ",
        "ﷺ",  # NFKC makes 18 characters of it
        "a,",
        "key\u00e9,",
    ],
)
def test_long_cells_are_cut_on_the_server_without_a_trace(server, cell):
    """10 MB cost no more than a page, and the encoding does not know."""
    psycopg = pytest.importorskip("psycopg")
    features = (
        Feature("brand", "category"),
        Feature("title", "text", max_words=5_000, ngrams=2),
        Feature("tags", "categories", separator=","),
        Feature("list", "categories"),
    )
    many = 10_000_000 // len(cell.encode())
    source = """select long as brand, long as title, long as tags,
        array[long, long] as list from (select repeat(%(cell)s, %(many)s) as long) r"""
    given = {"cell": cell, "many": many}
    with psycopg.connect(server) as conn:
        select = f"select {projection(features, 's')} from ({source}) s"
        values = conn.execute(select, given).fetchone()
        (record,) = conn.execute(
            f"select {json_projection(features, 's')} from ({source}) s", given
        ).fetchone()

    assert [len(value) for value in values] == [512, 4096, 262_656, 262_656]
    long = cell * many
    whole = {
        "brand": long,
        "title": long,
        "tags": long.replace(",", "\x1f"),
        "list": f"{long}\x1f{long}",
    }
    wanted = prepare_row("item", features, whole)
    names = [feature.name for feature in features]
    for cells in (dict(zip(names, values, strict=True)), record):
        found = prepare_row("item", features, cells)
        assert {k: v.tolist() for k, v in found.items()} == {
            k: v.tolist() for k, v in wanted.items()
        }


@pytest.mark.parametrize("start", ["1", "0x1"])
def test_a_long_text_is_refused_at_once(start: str) -> None:
    # A request may bring what an address says: the digits must be read once.
    text = start + "1" * 200_000 + "x"
    began = time.process_time()

    with pytest.raises(ValueError, match="no number"):
        number_of(text)

    assert time.process_time() - began < 1
