-- recsys.model: one row per named recommender
--
-- last_number  highest version number ever given out; a failed attempt burns its number
-- generation   grows by one in the commit of every switch; request processes compare it with the
--              generation they cached, so that a switch takes effect on the next request

create table recsys.model (
    name        text primary key
                constraint model_name_is_usable_in_identifiers
                check (name ~ '^[a-z][a-z0-9_]{0,23}$'),
    item_type   text not null
                constraint model_item_type_is_known check (item_type in ('bigint', 'uuid', 'text')),
    user_type   text not null
                constraint model_user_type_is_known check (user_type in ('bigint', 'uuid', 'text')),
    last_number integer not null default 0,
    generation  bigint not null default 0,
    created_at  timestamptz not null default now()
);

comment on table recsys.model is 'One row per named recommender.';
comment on column recsys.model.generation is
    'Grows by one in the commit of every switch; request processes reload when it differs from theirs.';
