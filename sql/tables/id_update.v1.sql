-- recsys.id_update: the incremental updates of the learned rows of a version, the refused ones too
--
-- state     published: its rows serve; refused: nothing was written, and the next one reads its interactions again;
--           undone: the rows are as they were before it
-- since     interactions after it were read, less the overlap for late commits
-- until     time of the newest interaction that was read
-- read      interactions in that time that no earlier update trained on
-- trained   of them, those it trained on
-- left_out  of them, the others by reason
-- changed   rows of id_embedding_<suffix> that were written
-- metrics   of the rows before the update, on interactions that they were not trained on; "guard" compares rows trained
--           on the older part with those before, on the newest part
--
-- recsys.id_update_row: what the rows were before a published update; served null: there was no row. Bounded: of a
-- version's updates the newest few are kept.
--
-- recsys.id_update_seen: which interactions within the overlap a version's updates trained on, by hash, so that reading
-- them again trains on none twice
--
-- tests: tests/updates/

create table recsys.id_update (
    id        bigint generated always as identity primary key,
    model     text not null,
    number    integer not null,
    state     text not null
              constraint id_update_state_is_known check (state in ('published', 'refused', 'undone')),
    began_at  timestamptz not null,
    ended_at  timestamptz not null default clock_timestamp(),
    since     timestamptz,
    until     timestamptz,
    read      bigint not null default 0,
    trained   bigint not null default 0,
    left_out  jsonb not null default '{}',
    changed   bigint not null default 0,
    metrics   jsonb not null default '{}',
    reason    text,
    foreign key (model, number) references recsys.model_version (model, number) on delete cascade
);

create index id_update_version on recsys.id_update (model, number, id);

comment on table recsys.id_update is
    'Incremental updates of the learned rows of a version: what they read, how well the rows did before, what became of it.';

create table recsys.id_update_row (
    update_id bigint not null references recsys.id_update (id) on delete cascade,
    item_id   text not null,
    served    halfvec,
    history   halfvec,
    primary key (update_id, item_id)
);

comment on table recsys.id_update_row is
    'What learned rows were before an incremental update, to undo it; served null: there was no row.';

create table recsys.id_update_seen (
    model       text not null,
    number      integer not null,
    hash        bigint not null,
    occurred_at timestamptz not null,
    primary key (model, number, hash),
    foreign key (model, number) references recsys.model_version (model, number) on delete cascade
);

comment on table recsys.id_update_seen is
    'Which interactions within the overlap a version was trained on by incremental updates.';
