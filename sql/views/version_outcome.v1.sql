-- recsys.version_outcome: what each version showed and what came of it, per day (UTC)
--
-- An outcome is attributed to an answer when it names the answer's request_id and its item was in that answer. A click
-- is an attributed outcome of any kind; a conversion is one of the kind that weighs most in the version's
-- interactions.weights, or, where kinds have no weights, one with a value.
--
-- Reads every day that is kept; filter the tables themselves where that is too much.
--
-- tests: tests/db/test_impression_tables.py

create view recsys.version_outcome as
with led as (
    select
        i.request_id,
        i.model,
        i.version,
        (i.occurred_at at time zone 'UTC')::date as day,
        o.kind,
        sum(o.value) as value,
        bool_or(coalesce(o.kind = best.kind, o.value is not null)) as converted
    from recsys.outcome as o
    join recsys.impression as i
        on i.request_id = o.request_id and i.model = o.model and o.item_id = any (i.item_ids)
    left join lateral (
        select w.key as kind
        from recsys.model_version as v
        cross join lateral jsonb_each_text(v.spec -> 'interactions' -> 'weights') as w
        where v.model = i.model and v.number = i.version
        order by w.value::double precision desc, w.key
        limit 1
    ) as best on true
    group by i.request_id, i.model, i.version, i.occurred_at, o.kind
),
answers as (
    select l.request_id, bool_or(l.converted) as converted, sum(l.value) as value
    from led as l
    group by l.request_id
),
kinds as (
    select k.model, k.version, k.day, jsonb_object_agg(k.kind, k.answers) as outcomes
    from (
        select l.model, l.version, l.day, l.kind, count(distinct l.request_id) as answers
        from led as l
        group by l.model, l.version, l.day, l.kind
    ) as k
    group by k.model, k.version, k.day
),
days as (
    select
        i.model,
        i.version,
        (i.occurred_at at time zone 'UTC')::date as day,
        count(*) as impressions,
        count(distinct i.unit) as users,
        count(a.request_id) as clicks,
        count(*) filter (where a.converted) as conversions,
        coalesce(sum(a.value), 0) as value,
        count(*) filter (where i.error is not null) as errors,
        count(*) filter (where i.degraded is not null) as degraded,
        count(*) filter (where i.error is null and cardinality(i.item_ids) < i.k) as short_pages,
        percentile_cont(0.5) within group (order by i.took_ms) as p50_ms,
        percentile_cont(0.99) within group (order by i.took_ms) as p99_ms
    from recsys.impression as i
    left join answers as a on a.request_id = i.request_id
    group by i.model, i.version, (i.occurred_at at time zone 'UTC')::date
)
select
    d.model,
    d.version,
    d.day,
    d.impressions,
    d.users,
    d.clicks,
    d.clicks::double precision / d.impressions as ctr,
    d.conversions,
    d.conversions::double precision / d.impressions as conversion,
    d.value,
    k.outcomes,
    d.errors::double precision / d.impressions as error_share,
    d.degraded::double precision / d.impressions as degraded_share,
    d.short_pages::double precision / d.impressions as short_page_share,
    d.p50_ms,
    d.p99_ms
from days as d
left join kinds as k
    on k.model = d.model and k.day = d.day and k.version is not distinct from d.version;

comment on view recsys.version_outcome is
    'What each version showed per day, and what came of it: clicks, conversions, value, errors, latency.';
