-- recsys.worker: the workers that run, by their own account; a row that is not seen for a minute is a dead worker
--
-- recsys.schedule: the periodic tasks; a worker claims the row, runs the task and writes the result

create table recsys.worker (
    id         uuid primary key,
    host       text not null,
    pid        integer not null,
    started_at timestamptz not null default now(),
    seen_at    timestamptz not null default now(),
    items      bigint not null default 0,
    failed     bigint not null default 0
);

comment on table recsys.worker is 'The workers that run: where, since when, how many items they have applied.';

create table recsys.schedule (
    task    text not null,
    model   text not null default '',
    every   interval not null
            constraint schedule_every_is_positive check (every > interval '0'),
    next_at timestamptz not null default now(),
    ran_at  timestamptz,
    took    interval,
    result  text,
    error   text,
    primary key (task, model)
);

comment on table recsys.schedule is 'The periodic tasks of the workers: how often, when next, what the last run said.';
