-- recsys.promotion: every switch, append-only
--
-- kind         'promote' and 'rollback' are asked for, 'drop' hands over from a version that goes away
--
-- A rollback goes back along the rows of kind 'promote'; rows outlive the versions they name.

create table recsys.promotion (
    id          bigint generated always as identity primary key,
    model       text not null references recsys.model (name),
    number      integer,
    from_number integer,
    kind        text not null default 'promote'
                constraint promotion_kind_is_known check (kind in ('promote', 'rollback', 'drop')),
    reason      text not null default '',
    promoted_at timestamptz not null default now(),
    promoted_by text not null default session_user
);

create index promotion_model on recsys.promotion (model, id desc);

comment on table recsys.promotion is
    'Every switch of a model: from which version, to which (null: serving stopped), who, when, why.';
