-- recsys.interaction: outcomes written by Recommender.record() for apps without an event table
--
-- Ids are text here because one table serves every model; a source SQL casts them back:
--   select user_id::bigint, item_id::bigint, occurred_at, kind from recsys.interaction where model = 'shop'
-- which needs an index of the model's own, see docs/configuration.md:
--   create index on recsys.interaction (((user_id)::bigint), occurred_at) where model = 'shop'

create table recsys.interaction (
    model       text not null,
    user_id     text not null,
    item_id     text not null,
    kind        text not null,
    occurred_at timestamptz not null default now(),
    request_id  uuid
);

create index interaction_user on recsys.interaction (model, user_id, occurred_at);
create index interaction_request on recsys.interaction (request_id) where request_id is not null;

comment on table recsys.interaction is
    'Outcomes written by record() for applications that have no event table of their own.';
