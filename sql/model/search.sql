-- recsys._search_@s@: the k nearest items of this version
--
--   p_query    query vector
--   p_k        list length
--   p_exclude  items never returned
--   p_ef       candidates the index keeps; at least the calibrated ef_search. Where the index is over less than the
--              whole vectors, as many are re-ranked for up to 20 places, and more for more
--   -> item_ids, scores  best first; ties within the answer by item id
--
-- The SET clauses make the settings end with the function, inside any transaction and behind any pooler.
-- Without iterative_scan the index stops after ef_search candidates, and exclusions eat the answer. relaxed_order
-- may hand rows out of order, so the rows are sorted again.
-- The index gives up after max_scan_tuples; when it returns fewer than k, the exact scan decides. Adding 0 to
-- the distance keeps the planner off the HNSW index. Filters are the business of recsys._candidates.

create or replace function recsys._search_@s@(
    p_query   halfvec,
    p_k       integer,
    p_exclude @item_type@[] default '{}',
    p_ef      integer default 100
)
returns table (item_ids @item_type@[], scores real[])
language plpgsql stable
set hnsw.iterative_scan = 'relaxed_order'
set hnsw.ef_search = 100
-- Where a user knows thousands of the nearest, the index must go on behind them.
set hnsw.max_scan_tuples = 200000
set hnsw.scan_mem_multiplier = 16
-- The statement without a filter has one good plan, on the index: plan it once per session.
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
as $function$
begin
    perform set_config('hnsw.ef_search', least(p_ef, 1000)::text, true);
    if cardinality(p_exclude) > 100 then
        -- A custom plan looks exclusions up in a hash table, a generic one goes through all for each candidate.
        perform set_config('plan_cache_mode', 'force_custom_plan', true);
    end if;
    p_exclude := array_remove(p_exclude, null);  -- <> all (null) is never true
    select array_agg(sorted.item_id), array_agg((-sorted.distance)::real)
    into item_ids, scores
    from (select near.item_id, near.distance
          from (@near@) as near
          order by near.distance, near.item_id@collate@) as sorted;

    if coalesce(cardinality(item_ids), 0) < p_k then
        perform set_config('enable_seqscan', 'on', true);
        execute
            'select array_agg(near.item_id order by near.distance, near.item_id@collate@),
                    array_agg((-near.distance)::real order by near.distance, near.item_id@collate@)
             from (select v.item_id, (v.embedding <#> $1) + 0 as distance
                   from recsys.item_vector_@s@ as v
                   where v.item_id <> all ($3)
                   order by 2, v.item_id@collate@
                   limit $2) as near'
        into item_ids, scores using p_query, p_k, p_exclude;
    end if;
    item_ids := coalesce(item_ids, '{}');
    scores := coalesce(scores, '{}');
    return next;
end
$function$;

-- recsys._vectors_@s@: the vectors of items in their order, packed by halfvec_send one after the other
--
-- A function of its own, so that its statement is planned once per session.

create or replace function recsys._vectors_@s@(p_items @item_type@[])
returns bytea
language plpgsql stable
set plan_cache_mode = force_generic_plan
as $function$
begin
    return (
        select string_agg(halfvec_send(v.embedding), ''::bytea order by n.place)
        from unnest(p_items) with ordinality as n(item_id, place)
        join recsys.item_vector_@s@ as v on v.item_id = n.item_id
    );
end
$function$;

-- recsys._coverage_@s@: vectors against the item source, counted now

create or replace function recsys._coverage_@s@()
returns table (source_count bigint, item_count bigint, missing bigint, orphaned bigint)
language sql stable
as $function$
    select count(s.item_id), count(v.item_id),
           count(*) filter (where v.item_id is null),
           count(*) filter (where s.item_id is null)
    from (select distinct source.item_id::@item_type@ as item_id from (@items@) as source) as s
    full join recsys.item_vector_@s@ as v on v.item_id = s.item_id
$function$;

select recsys._grant_version(@suffix_literal@);
