-- What a gradual rollout and the retention of versions need in the registry.
--
-- model.salt           salt of the users' buckets; a new one for every candidate, so that the same users are not
--                      always the first to meet a new version
-- model.keep_versions  ready versions that the clean-up leaves beside what serves and what a rollback needs
-- model.grace          for how long a version that served, or was retired, is never dropped by the clean-up
-- rollout.candidate    the version that is being rolled out; the other row is the base

alter table recsys.model
    add column salt          text     not null default '',
    add column keep_versions integer  not null default 2
        constraint model_keep_versions_is_a_count check (keep_versions >= 0),
    add column grace         interval not null default '1 day'
        constraint model_grace_is_not_negative check (grace >= interval '0');

alter table recsys.model_version
    add column trained_until  timestamptz,
    add column last_served_at timestamptz,
    add column retired_at     timestamptz;

alter table recsys.rollout add column candidate boolean not null default false;
create unique index rollout_roles on recsys.rollout (model, candidate);

alter table recsys.promotion
    add column percent numeric(5, 2) not null default 100,
    drop constraint promotion_kind_is_known,
    add constraint promotion_kind_is_known check (kind in ('promote', 'percent', 'rollback', 'drop'));

comment on column recsys.model.salt is 'Salt of the users'' buckets in the rollout; a new one for every candidate.';
comment on column recsys.model_version.trained_until is 'End of the data the version was trained on; null: unknown.';
comment on column recsys.rollout.candidate is 'The version that is being rolled out; the other row is the base.';
