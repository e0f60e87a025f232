-- recsys.experiment_arm: the arms of an experiment, in the order of their names
--
-- number    the version that answers the users of the arm; outlives the version
-- share     percent of the experiment's users; all shares add up to 100, checked at the start
-- settings  reserved
--
-- tests: tests/db/test_experiment_store.py

create table recsys.experiment_arm (
    experiment text not null references recsys.experiment (name) on delete cascade,
    arm        text not null
               constraint experiment_arm_name_is_simple check (arm ~ '^[a-z0-9][a-z0-9_-]{0,31}$'),
    number     integer,
    share      numeric(5, 2) not null
               constraint experiment_arm_share_is_a_percentage check (share > 0 and share < 100),
    is_control boolean not null default false,
    settings   jsonb not null default '{}',
    primary key (experiment, arm)
);

create unique index experiment_arm_control on recsys.experiment_arm (experiment) where is_control;

comment on table recsys.experiment_arm is 'The arms of an experiment: version, share, which is the control.';
