-- recsys.exposure: when a unit first met an experiment, and in which arm
--
-- Written at the assignment, also when the answer then fails: a version that times out must not lose the users it
-- fails from its own arm. The first row of a unit stays. No foreign key: request processes write here.
--
-- tests: tests/db/test_experiment_result.py

create table recsys.exposure (
    experiment text not null,
    unit       text not null,
    arm        text not null,
    first_at   timestamptz not null default now(),
    primary key (experiment, unit)
);

comment on table recsys.exposure is 'When a unit first met an experiment, and in which arm.';
