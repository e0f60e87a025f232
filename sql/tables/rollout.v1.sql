-- recsys.rollout: which share of the users each serving version answers
--
-- Written only by recsys._promote, in the transaction that also moves model.generation.

create table recsys.rollout (
    model   text not null,
    number  integer not null,
    percent numeric(5, 2) not null
            constraint rollout_percent_is_a_share check (percent > 0 and percent <= 100),
    primary key (model, number),
    foreign key (model, number) references recsys.model_version (model, number)
);

comment on table recsys.rollout is 'Which share of the users each serving version answers.';
