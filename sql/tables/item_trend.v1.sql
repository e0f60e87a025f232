-- recsys.item_trend: how much more popular an item is than its vector says
--
-- delta     what the popularity dimension of the version would be with the interactions until now, less what it is in
--           the index; in units of the score. Items that did not rise have no row.
-- measured_at  when; what is older than a day is not read
--
-- Written by the workers' task 'trend', read by every search of the version without a filter.
--
-- tests: tests/db/test_fresh.py

create table recsys.item_trend (
    model       text not null,
    number      integer not null,
    item_id     text collate "C" not null,
    delta       real not null,
    measured_at timestamptz not null default now(),
    primary key (model, number, item_id),
    foreign key (model, number) references recsys.model_version (model, number) on delete cascade
);

create index item_trend_delta on recsys.item_trend (model, number, delta desc);

comment on table recsys.item_trend is
    'What today''s interactions add to the scores of a version until it is trained again.';
