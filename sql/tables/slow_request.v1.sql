-- recsys.slow_request: requests that took longer than an observer allows, with the plans of their statements
--
-- plan         explain (no analyze) of the statements of the version, made just after the request; null when it could
--              not be made, and then plan_error says why
-- filter       SQL of among, with its values
--
-- Written only through recsys._keep_slow_request, which bounds length and number. The worker forgets after 14 days.
--
-- tests: tests/db/test_slow_requests.py

create table recsys.slow_request (
    id            bigint generated always as identity primary key,
    model         text not null,
    version       integer,
    occurred_at   timestamptz not null default clock_timestamp(),
    request_id    uuid,
    channel       text not null,
    user_id       text,
    k             integer not null,
    returned      integer not null,
    total_ms      real not null,
    connection_ms real not null,
    state_ms      real not null,
    tower_ms      real not null,
    candidates_ms real not null,
    degraded      text,
    error         text,
    filter        text,
    plan          text,
    plan_error    text
);

create index slow_request_model on recsys.slow_request (model, id);

comment on table recsys.slow_request is
    'Requests that took longer than an observer allows, with plans; the newest 200 of a model, for 14 days.';
