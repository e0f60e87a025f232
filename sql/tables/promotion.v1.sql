-- recsys.promotion: every switch, append-only
--
-- rollback() goes back along these rows; they outlive the versions they name.

create table recsys.promotion (
    id          bigint generated always as identity primary key,
    model       text not null references recsys.model (name),
    number      integer,
    from_number integer,
    reason      text not null default '',
    promoted_at timestamptz not null default now(),
    promoted_by text not null default session_user
);

create index promotion_model on recsys.promotion (model, id desc);

comment on table recsys.promotion is
    'Every switch of a model: from which version, to which (null: serving stopped), who, when, why.';
