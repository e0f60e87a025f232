-- recsys.ramp: a rollout that raises its percentage by itself; the workers advance it
--
-- steps    percentages, ascending; the first was taken when the ramp began
-- step     index of the step that is in effect, from 1
-- next_at  when the next step is due
-- guarded  a step also waits until every guardrail has seen enough answers
--
-- The row goes when the ramp ends, whatever ends it; recsys.audit keeps why.

create table recsys.ramp (
    model      text primary key references recsys.model (name),
    number     integer not null,
    steps      numeric(5, 2)[] not null,
    every      interval not null
               constraint ramp_every_is_positive check (every > interval '0'),
    step       integer not null default 1,
    step_at    timestamptz not null default now(),
    next_at    timestamptz not null,
    reason     text not null default '',
    guarded    boolean not null default true,
    started_at timestamptz not null default now(),
    started_by text not null default session_user
);

comment on table recsys.ramp is 'Rollouts that raise their percentage by themselves; the workers advance them.';
