"""recsys.toml: what is accepted, and that every mistake names itself."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import world

from recsys import starter
from recsys.config import from_mapping, load, model_from_dict
from recsys.errors import ConfigError


def changed(path: str, value: object) -> dict[str, Any]:
    """The shop's mapping with one value set at a dotted path."""
    data = copy.deepcopy(world.toml(features=True))
    part: Any = data
    *parents, last = path.split("/")
    for key in parents:
        part = part.setdefault(key, {})
    part[last] = value
    return data


M = "model/shop"


@pytest.mark.parametrize(
    ("path", "value", "message", "hint"),
    [
        ("modle", {}, 'unknown key "modle"', 'Did you mean "model"?'),
        (f"{M}/itmes", {}, 'unknown key "itmes"', 'Did you mean "items"?'),
        (f"{M}/train/dimm", 3, 'unknown key "dimm"', 'Did you mean "dim"?'),
        (f"{M}/items/features/brand/buckets", 64, 'unknown key "buckets"', ""),
        (f"{M}/items/features/brand/type", "categry", "unknown type", "category"),
        (f"{M}/items/features/Brand", {"type": "text"}, "column name", "Rename"),
        (f"{M}/items/features/brand", "category", "must be a table", "type ="),
        (f"{M}/items/watch", ["book"], "must be a table", 'product = "id"'),
        (f"{M}/items/features/title/ngrams", 4, "ngrams must be 1, 2 or 3", ""),
        (f"{M}/items/features/title/buckets", 2, "buckets must be", ""),
        (f"{M}/items/features/title/buckets", "64", 'a whole number, got "64"', ""),
        (f"{M}/items/features/price/scale", "ln", "scale must be", ""),
        (f"{M}/items/features/v", {"type": "vector"}, "dim must be", ""),
        (f"{M}/items/features/title/encoder", "m", "hashed words", "second time"),
        (f"{M}/items/features/title/fine_tune", True, "fine_tune is for", ""),
        (f"{M}/items/features/t", {"type": "text", "encoder": ""}, "directory", ""),
        (f"{M}/items/features/t", {"type": "text", "sha256": "a"}, "unknown key", ""),
        (f"{M}/users/features/t", {"type": "text", "encoder": "m"}, "items", "vector"),
        (f"{M}/items/sql", "  ", "needs sql", ""),
        (f"{M}/items/sql", 7, "needs sql", ""),
        (f"{M}/item_id", "integer", "item_id", ""),
        (f"{M}/user_id", "serial", "user_id", ""),
        (f"{M}/train/dim", 1, "train.dim must be", ""),
        (f"{M}/train/dim", True, "must be a whole number, got true", ""),
        (f"{M}/train/dim", 64.5, "must be a whole number, got 64.5", ""),
        (f"{M}/train/lr", "fast", 'must be a number, got "fast"', ""),
        (f"{M}/train/lr", [0.1], "must be a number, got [0.1]", ""),
        (f"{M}/train/int8", 1, "must be true or false, got 1", ""),
        (f"{M}/train/device", False, "must be a string, got false", ""),
        (f"{M}/train/device", "gpu", 'one of "cpu", "cuda", "auto"', ""),
        (f"{M}/train/prefixes", 32, "must be a list, got 32", ""),
        (f"{M}/train/epochs", {"most": 3}, "got { most = 3 }", ""),
        (f"{M}/query", {"encoder": "maen"}, '"maen" is not', 'Did you mean "mean"?'),
        (f"{M}/query", {"encoder": "x"}, '"x" is not known', '"auto", "mean"'),
        (f"{M}/context", {"features": {"kind": {"type": "text"}}}, 'name: "kind"', ""),
        (f"{M}/items/features/brand", {}, 'feature "brand" has no type', '"category"'),
        (f"{M}/items/features/at", {"type": "time", "parts": "age"}, '"age"', ""),
        (f"{M}/items/features/at", {"type": "time", "parts": [["age"]]}, '["age"', ""),
        (
            f"{M}/items/features/at",
            {"type": "time", "parts": ["hour"]},
            'some of ["age", "year", "week", "day"], got ["hour"]',
            "",
        ),
        (f"{M}/interactions/value", "ln", '"linear" or "log", got "ln"', ""),
        (
            f"{M}/items/updated_at",
            None,
            "must name a column of its sql, got nothing",
            "",
        ),
        (f"{M}/train/budget_s", -1, "budget_s", ""),
        (f"{M}/train/validation", 0.5, "validation", ""),
        (f"{M}/train/lr", -1.0, "train.lr must be", ""),
        (f"{M}/train/lr", 1e30, "train.lr must be", ""),
        (f"{M}/train/beta", 1e30, "train.beta must be", ""),
        (f"{M}/train/beta", -1.0, "train.beta must be", ""),
        (f"{M}/train/recent_beta", 1e30, "train.recent_beta must be", ""),
        (f"{M}/index/m", 101, "index.m", ""),
        (f"{M}/content/cross", 9, "content.cross", ""),
        (f"{M}/content/rank", -1, "content.rank", ""),
        (f"{M}/content/crosses", 1, "unknown key", "cross"),
        (f"{M}/index/recall_target", 1.5, "recall_target", ""),
        (f"{M}/query/rerank", 0.05, "rerank = 0.05 must be 0, or 0.1 to 10", ""),
        (f"{M}/query/rerank", 11, "leave it out to have it chosen", ""),
        (f"{M}/query/rerank", "auto", "must be a number", ""),
        (f"{M}/query", {"rerank": 1, "interests": 3}, "one mean of the history", ""),
        (f"{M}/query", {"rerank": 1, "encoder": "decay"}, "leave it out, or set", ""),
        (f"{M}/query", {"reranking": 1}, "unknown key", "rerank"),
        (f"{M}/interactions/weights", {"view": -1}, "weights.view", "Weight 0"),
        (f"{M}/interactions/weights", {"view": "1"}, "weights.view", ""),
        (f"{M}/interactions/targets", ["purchse"], "without a weight", ""),
        (f"{M}/interactions/targets", "purchase", "list of kinds", ""),
        (f"{M}/interactions/record", 1, "record must be", ""),
        ("model/Shop", {}, "not usable", "24"),
        ("model/" + "a" * 25, {}, "not usable", "24"),
        ("model/shop;drop", {}, "not usable", "24"),
        ("versions", 7, "folder", ""),
        ("model", [], "must be a table", ""),
    ],
)
def test_a_mistake_is_named_with_its_place(
    path: str, value: object, message: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        from_mapping(changed(path, value))

    assert message in str(caught.value)
    assert hint in caught.value.hint
    # What Python would call things is not in the file.
    for said in (str(caught.value), caught.value.hint):
        assert not re.search(
            r"'[^ ]+'|\bTrue\b|\bFalse\b|\bNone\b|\bint\b|\btuple\b|\('", said
        )


def test_heads_matter_to_the_encoder_that_is_named_alone() -> None:
    data = changed(f"{M}/train/dim", 25)

    assert from_mapping(data).model("shop").train.dim == 25
    for encoder in ("mean", "decay", "gated"):
        data["model"]["shop"]["query"] = {"encoder": encoder}
        assert from_mapping(data).model("shop").query.encoder == encoder
    for encoder in ("attention", "transformer"):
        data["model"]["shop"]["query"] = {"encoder": encoder}
        with pytest.raises(ConfigError, match=r"heads must divide train\.dim"):
            from_mapping(data)


def test_a_context_may_be_called_value_where_no_value_is_used() -> None:
    data = changed(f"{M}/context", {"features": {"value": {"type": "number"}}})

    assert from_mapping(data).model("shop").context.features[0].name == "value"
    data["model"]["shop"]["interactions"]["value"] = "log"
    with pytest.raises(ConfigError, match="reserved name"):
        from_mapping(data)


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ({"encoder": "gated"}, "gated"),
        ({"interests": 3, "interests_from": "learned"}, "learned interests"),
    ],
)
def test_updates_need_queries_that_are_means(query: dict[str, Any], kind: str) -> None:
    data = changed(f"{M}/query", query)
    from_mapping(data)
    data["model"]["shop"]["update"] = {"every_s": 60}

    with pytest.raises(ConfigError, match=f"not those of {kind}") as caught:
        from_mapping(data)

    assert 'query.encoder = "mean"' in caught.value.hint
    for fine in ({}, {"encoder": "mean"}, {"interests": 3}):
        data["model"]["shop"]["query"] = fine
        from_mapping(data)


@pytest.mark.parametrize("name", ["companions", "recent_beta"])
def test_what_sequences_are_learned_without_is_refused_beside_them(name: str) -> None:
    data = changed(f"{M}/train", {name: 0.5})
    for encoder in ("auto", "mean"):
        data["model"]["shop"]["query"] = {"encoder": encoder}
        from_mapping(data)
    data["model"]["shop"]["query"] = {"encoder": "decay"}

    with pytest.raises(ConfigError, match=f"train.{name} needs the mean") as caught:
        from_mapping(data)

    assert f"Leave out train.{name}" in caught.value.hint


@pytest.mark.parametrize("missing", ["items", "interactions"])
def test_a_missing_source_shows_how_to_write_it(missing: str) -> None:
    data = world.toml()
    del data["model"]["shop"][missing]

    with pytest.raises(ConfigError, match=missing) as caught:
        from_mapping(data)

    assert "sql =" in caught.value.hint


def test_user_features_need_a_user_source() -> None:
    data = world.toml(features=True)
    del data["model"]["shop"]["users"]["sql"]

    with pytest.raises(ConfigError):
        from_mapping(data)


def test_numbers_that_are_not_numbers_are_refused() -> None:
    for value in (float("nan"), float("inf"), True):
        with pytest.raises(ConfigError):
            from_mapping(changed(f"{M}/interactions/weights", {"view": value}))
        with pytest.raises(ConfigError):
            from_mapping(changed(f"{M}/train/budget_s", value))


def test_the_stored_form_gives_back_the_same_configuration() -> None:
    model = world.shop_config("uuid", features=True)

    again = model_from_dict(json.loads(json.dumps(model.to_dict())))

    assert again == model


def test_an_unknown_model_suggests_the_declared_ones() -> None:
    project = from_mapping(world.toml())

    with pytest.raises(ConfigError) as close:
        project.model("shpo")
    with pytest.raises(ConfigError) as far:
        project.model("zzz")

    assert 'model "shpo" is not declared' in str(close.value)
    assert close.value.hint == 'Did you mean "shop"?'
    assert "shop" in far.value.hint


def test_a_missing_file_says_how_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read") as caught:
        load(tmp_path / "recsys.toml")

    assert "recsys init" in caught.value.hint


@pytest.mark.parametrize(
    "content", [b"[model", b"\xff\xfe", b"a = 1\na = 2", b"", b"x = 1"]
)
def test_a_file_that_is_not_a_configuration_is_an_error(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "recsys.toml"
    path.write_bytes(content)

    if not content:
        assert load(path).models == {}
        return
    with pytest.raises(ConfigError):
        load(path)


def test_the_versions_folder_stands_beside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "recsys.toml"
    path.write_text('versions = "mine"\n')

    assert load(path).versions == tmp_path.resolve() / "mine"


def test_the_starter_file_is_a_valid_configuration(tmp_path: Path) -> None:
    path = tmp_path / "recsys.toml"

    starter.write(path, "music")

    assert load(path).model("music").items.features


def test_the_starter_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "recsys.toml"
    path.write_text("# mine\n")

    with pytest.raises(ConfigError, match="exists"):
        starter.write(path, "shop")

    assert path.read_text() == "# mine\n"


def test_the_starter_refuses_a_name_it_could_not_read_back(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not usable"):
        starter.write(tmp_path / "recsys.toml", "My Shop")
    with pytest.raises(ConfigError, match="cannot write"):
        starter.write(tmp_path / "no" / "recsys.toml", "shop")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("select 1;", "select 1"),
        ("select 1 ; ", "select 1"),
        ("select 1;;\n;", "select 1"),
        ("select 1;  -- note", "select 1"),
        ("select 1; /* a /* nested; */ note */ -- and; more", "select 1"),
        ("select 1 -- no; end\n, 2", "select 1 -- no; end\n, 2"),
        ("select ';' as a, \";\" from t;", "select ';' as a, \";\" from t"),
        ("select $x$;$x$, E'\\';', 'it''s;';", "select $x$;$x$, E'\\';', 'it''s;'"),
        ("select '\\';", "select '\\'"),
        ("select 1 /* open; /* */ */, 2;", "select 1 /* open; /* */ */, 2"),
    ],
)
def test_a_source_ends_before_its_semicolon(given: str, kept: str) -> None:
    data = world.toml()
    data["model"]["shop"]["items"]["sql"] = given

    assert from_mapping(data).model("shop").items.sql == kept


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("select 1; select 2", "one statement"),
        ("select 1; -- a\n drop table x;", "one statement"),
        (" ;; ", "needs sql"),
    ],
)
def test_a_source_of_no_or_two_statements_is_refused(given: str, message: str) -> None:
    data = world.toml()
    data["model"]["shop"]["items"]["sql"] = given

    with pytest.raises(ConfigError, match=message):
        from_mapping(data)
