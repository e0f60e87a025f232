"""sql/schema.sql shows in review what a change does to the database."""

import pytest
from schema_dump import FILE, MAJOR, dump

from recsys import _db


def test_the_schema_at_head_is_the_one_in_review(db: _db.Connection) -> None:
    if db.info.server_version // 10_000 != MAJOR:
        pytest.skip(f"the snapshot is what Postgres {MAJOR} prints")

    assert dump(db) == FILE.read_text(encoding="utf-8"), "run 'make schema' and review"


@pytest.mark.parametrize(
    "change",
    [
        "alter table recsys.model add column extra int",
        "alter table recsys.model alter last_number set default 1",
        "alter table recsys.model alter last_number drop not null",
        "alter table recsys.model drop constraint model_item_type_is_known",
        "drop index recsys.interaction_user",
        "comment on table recsys.model is 'x'",
        "comment on column recsys.model.name is 'x'",
        "comment on function recsys.schema_version() is 'x'",
        "comment on view recsys.switch_log is 'x'",
        "alter function recsys._check_k(integer) volatile",
        "alter function recsys.coverage(text, integer) reset search_path",
        "grant select on recsys.model to public",
        "grant execute on function recsys._check_k(integer) to public",
        "revoke usage on schema recsys from recsys_app",
        "create or replace view recsys.switch_log as select model, from_number, number,"
        " kind, promoted_at, promoted_by, reason from recsys.promotion",
        "alter table recsys.artifact alter content set storage main",
        "create table recsys.more (x int)",
    ],
)
def test_the_dump_sees_every_kind_of_change(db: _db.Connection, change: str) -> None:
    before = dump(db)

    db.execute(change.encode())

    assert dump(db) != before
