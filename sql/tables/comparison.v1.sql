-- recsys.comparison: what two versions answered to the same users, and whether the newer one may be promoted
--
-- number          the candidate; base_number the version it was compared with, null: the popularity floor
-- cutoff          histories end and hits begin here; null: the hits came from a file
-- sample_percent  share of the source's items that both could show: less than 100 while the candidate is loading
-- limited         measured before the candidate was ready; such a comparison never passes
-- verdict         the reasons in words
-- gate            thresholds of the verdict and the seed of the sample, by name
-- standard        they are at least as strict as the defaults, and the sample is the one that everybody gets; only such
--                 a comparison lets a version be promoted without force
-- metrics         name -> {"base", "candidate", "difference", "low", "high", "popular"}; see recsys.version_comparison
--
-- Rows outlive the versions they name, so that the audit can show the numbers of a promotion; version numbers are
-- never used twice. Hence no foreign key. created_at is the clock's and not the transaction's: a comparison that
-- took minutes must not look older than the version's readiness.

create table recsys.comparison (
    id             bigint generated always as identity primary key,
    model          text not null,
    number         integer not null,
    base_number    integer,
    created_at     timestamptz not null default clock_timestamp(),
    created_by     text not null default session_user,
    cutoff         timestamptz,
    users          integer not null
                   constraint comparison_has_users check (users > 0),
    hits           integer not null,
    k              integer not null
                   constraint comparison_k_is_a_list_length check (k between 1 and 1000),
    sample_percent real not null
                   constraint comparison_sample_is_a_share check (sample_percent >= 0 and sample_percent <= 100),
    limited        boolean not null,
    passed         boolean not null,
    verdict        text not null,
    gate           jsonb not null default '{}',
    standard       boolean not null default false,
    metrics        jsonb not null,
    constraint comparison_is_of_two_versions check (number <> base_number),
    constraint comparison_on_limited_data_passes_nothing check (not (limited and passed))
);

create index comparison_version on recsys.comparison (model, number, id desc);

comment on table recsys.comparison is
    'Offline comparisons of a version with the one that serves: the numbers, and whether it may be promoted.';
