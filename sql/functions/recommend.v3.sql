-- recsys.recommend: k items for one user, by the version that serves this user, from SQL alone
--
--   model       name of the model
--   user_id     the application's identifier: bigint, uuid or text
--   k           list length, 1..1000
--   -> item_id  the application's identifier as text; nothing the user has interacted with
--   -> score    inner product, what rose today, and what single items of the history add where the version ranks its
--               first candidates again, best first; comparable within one list only
--   raises      22023 k out of range or unknown model; 55000 nothing serves
--
-- How it differs from Recommender.recommend() in Python: the query vector is computed here, as the weighted mean of
-- the user's history, without the query tower. Where the mean is what the tower computes, and there are no user and
-- context features, the two agree up to rounding. Otherwise this is an approximation, and a notice says so, once for
-- each version in a transaction: nothing is left behind in the session. So it does of a version whose lean is unknown.
--
-- What rose today is added as recsys.retrieval._fresh does it: also what is not among the nearest may rise.
--
-- Where the version ranks the first candidates again by the single items of the history, so does this, as
-- recsys._rerank does it.
--
-- Runs as its owner, so that analysts need no privilege on the tables.
--
-- Differs from v2: popularity counts as the direction of the query says, with what rose today; the index looks as far
-- for a long list as it does in Python; the first candidates are ranked again; approximations are told.
--
-- tests: tests/db/test_sql_functions.py

create or replace function recsys.recommend(model text, user_id text, k integer default 20)
returns table (item_id text, score real)
language plpgsql stable security definer
set search_path from current
as $function$
declare
    serving record;
    version record;
    told    text;
begin
    perform recsys._check_k(k);
    -- One user, one spelling: '07' and 7 are in the same bucket.
    execute format('select ($1::%s)::text',
                   coalesce((select m.user_type from recsys.model as m where m.name = recommend.model), 'text'))
    into user_id using user_id;
    select * into serving from recsys._serving(model, user_id);
    -- An index over less than the whole vectors takes more candidates for a longer list by itself.
    select case when v.lean <> '{}' then v.lean end as lean, v.lean is null as unread,
           case when v.spec ? 'ordering' then serving.ef_search
                else greatest(serving.ef_search, least(1000, 2 * k)) end as ef_search,
           coalesce((v.spec #>> '{query,rerank}')::float8, 0) as rerank,
           concat_ws(' and ',
               case when v.spec #>> '{query,encoder}' not in ('mean', 'auto')
                    then 'the encoder ' || (v.spec #>> '{query,encoder}') end,
               case when v.spec #>> '{query,interests}' <> '1' then 'several interests' end,
               case when v.spec #> '{users,features}' <> '[]' or v.spec #> '{context,features}' <> '[]'
                    then 'features of users or requests' end) as beyond
    into version
    from recsys.model_version as v where v.model = recommend.model and v.number = serving.number;
    told := 'recsys.told_' || serving.suffix;
    if version.unread and coalesce(current_setting(told, true), '') = '' then
        raise notice 'version % of model % was backfilled before recsys.recommend() could lean:'
            ' popularity counts alike for everyone', serving.number, model
            using hint = format('recsys backfill %s %s', model, serving.number);
    end if;
    if version.beyond <> '' and coalesce(current_setting(told, true), '') = '' then
        raise notice 'version % of model % has %: recsys.recommend() knows the mean of the history only',
            serving.number, model, version.beyond
            using hint = 'Recommender.recommend() in Python answers as the version was trained.';
    end if;
    perform set_config(told, 'yes', true);
    return query execute format(
        'with asked as materialized (
             select l.query, q.seen, (subvector(l.query, vector_dims(l.query), 1)::real[])[1] as popularity
             from recsys._query_%1$s($1::%2$s) as q, recsys._leaning(q.query, $4) as l(query)
             limit 1  -- one row it is; the planner expects a thousand, and compiles for the product of all it expects
         ), risen as materialized (
             select t.item_id, t.delta from recsys.item_trend as t
             where t.model = $5 and t.number = $6 and t.measured_at > now() - interval ''1 day''
             order by t.delta desc limit 200
         ), found as (
             select n.item_id, n.score
             from asked,
                  recsys._search_%1$s(asked.query,
                                      case when cardinality(asked.seen) > 1 then $7 else $2 end
                                      + case when exists (select from risen) then 20 else 0 end,
                                      asked.seen, $3) as s,
                  unnest(s.item_ids, s.scores) as n(item_id, score)
             union all
             select v.item_id, (-(v.embedding <#> asked.query))::real
             from asked, risen
             -- The ids of the trend are "C"; the key of the vectors wants its own collation.
             join recsys.item_vector_%1$s as v on v.item_id = risen.item_id::%3$s%4$s
             where v.item_id <> all (asked.seen)
         ), best as (
             select f.item_id, (max(f.score) + asked.popularity * coalesce(max(t.delta), 0))::real as score
             from asked, found as f
             left join recsys.item_trend as t
                 on t.model = $5 and t.number = $6 and t.measured_at > now() - interval ''1 day''
                 and t.item_id = f.item_id::text
             group by f.item_id, asked.popularity
         ), pool as materialized (
             select b.item_id, b.score from best as b order by b.score desc, b.item_id%5$s limit $7
         )
         select p.item_id::text, (p.score + coalesce(r.bonus, 0))::real as score
         from pool as p %6$s
         order by 2 desc, p.item_id%5$s limit $2',
        serving.suffix, serving.user_type, serving.item_type,
        case serving.item_type when 'text' then ' collate "default"' else '' end,
        case serving.item_type when 'text' then ' collate "C"' else '' end,
        case when version.rerank > 0 then format(
            'left join recsys._rerank_%s($1::%s, (select array_agg(q.item_id) from pool as q), $8) as r'
            ' on r.item_id = p.item_id', serving.suffix, serving.user_type)
        else 'cross join (select 0::real as bonus) as r' end)
    using user_id, k, version.ef_search, version.lean, model, serving.number,
          case when version.rerank > 0 then greatest(k, least(1000, greatest(100, 5 * k))) else k end, version.rerank;
end
$function$;

comment on function recsys.recommend(text, text, integer) is
    'k items for one user by the serving version, computed in SQL from the history alone, best first: what Python answers where queries are means of histories, without features; else an approximation.';

comment on function recsys.recommend(text, bigint, integer) is
    'k items for one user by the serving version, computed in SQL from the history alone, best first: what Python answers where queries are means of histories, without features; else an approximation.';

comment on function recsys.recommend(text, uuid, integer) is
    'k items for one user by the serving version, computed in SQL from the history alone, best first: what Python answers where queries are means of histories, without features; else an approximation.';
