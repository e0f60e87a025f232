-- recsys._state_@s@: everything a request needs about a known user, in one snapshot
--
--   p_user    the user
--   p_before  epoch seconds: only interactions before it count; null: all (evaluation looks back in time)
--   -> generation  of the model; when it differs from the process's, reload and ask again
--   -> seen        the user's items
--   -> weights     of the history rows
--   -> history     the history rows of this version, newest first, packed by halfvec_send
--   -> features    user features as the encoder takes them
--   -> ages        only where the query tower wants it: seconds since each event, -1 where unknown
--   -> kinds       likewise: number of its kind among those of the version, from 1, 0 where unknown
--   -> vectors     only where the queries are made of it: item vectors of the history, packed as it is
--
-- The history is what training saw: the newest @history@ items of the source with a positive weight, each at the
-- time of its last event of positive weight, ties by item id. tests/db/test_no_skew.py compares the two.

create or replace function recsys._state_@s@(p_user @user_type@, p_before float8 default null)
returns table (generation bigint, seen @item_type@[], weights real[], history bytea, features jsonb@columns@)
language plpgsql stable
-- Planning these statements takes longer than running them, and no value changes the plan.
set plan_cache_mode = force_generic_plan
as $function$
#variable_conflict use_column
begin
    return query
    with item as materialized (
@taste@
    )
    select m.generation, (select array_agg(item.item_id) from item), past.weights, past.history, @features@@values@
    from recsys.model as m, (
        -- The rows come sorted, and aggregates take them as they come.
        select @aggregates@
        from (
@newest@
        ) as newest
    ) as past
    where m.name = @model_literal@;
end
$function$;

-- recsys._session_@s@: the same for a history given by the caller, in the caller's order, all of weight 1

create or replace function recsys._session_@s@(p_items @item_type@[], p_user @user_type@ default null)
returns table (generation bigint, seen @item_type@[], weights real[], history bytea, features jsonb@columns@)
language plpgsql stable
as $function$
#variable_conflict use_column
begin
    return query
    with session as materialized (
        select given.position, h.embedding@session_vector@
        from unnest(p_items) with ordinality as given(item_id, position)
        join recsys.item_embedding_@s@ as h on h.item_id = given.item_id@session_join@
        order by given.position
        limit @history@
    )
    select
        m.generation,
        p_items,
        past.weights,
        past.history,
        @features@@values@
    from recsys.model as m,
        (select array_agg(1::real) as weights,
                string_agg(halfvec_send(session.embedding), ''::bytea order by session.position) as history@session_aggregates@
         from session) as past
    where m.name = @model_literal@;
end
$function$;

-- recsys._query_@s@: the query vector of a user from the history alone, for recsys.recommend()

create or replace function recsys._query_@s@(p_user @user_type@)
returns table (query halfvec, seen @item_type@[])
language plpgsql stable
as $function$
#variable_conflict use_column
declare
    p_before constant float8 := null;
begin
    return query
    with item as materialized (
@taste@
    ), taste as (
        select sum(newest.embedding::vector * array_fill(newest.weight, array[@dim@])::vector) as total
        from (
@newest@
        ) as newest
    )
    select
        (l2_normalize(coalesce(taste.total, v.default_query::vector)) || '[1]'::vector)::halfvec,
        coalesce((select array_agg(item.item_id) from item), '{}')
    from taste, recsys.model_version as v
    where v.model = @model_literal@ and v.number = @number@;
end
$function$;

-- recsys._rerank_@s@: what the single items of a user's history add to the scores of candidates, for recsys.recommend()
--
--   p_user         the user
--   p_items        candidates
--   p_temperature  of the version, above 0
--   -> item_id, bonus  at least 0; no row of any item where the user has fewer than two rows
--
-- The same as recsys._rerank in Python, for products up to 600.

create or replace function recsys._rerank_@s@(p_user @user_type@, p_items @item_type@[], p_temperature float8)
returns table (item_id @item_type@, bonus real)
language plpgsql stable
as $function$
#variable_conflict use_column
declare
    p_before constant float8 := null;
begin
    return query
    with item as materialized (
@taste@
    ), past as materialized (
        select newest.embedding, newest.weight / sum(newest.weight) over () as weight
        from (
@newest@
        ) as newest
    ), mean as materialized (
        -- The more the rows differ, the shorter is their mean: recsys._rerank.LEAST_MEAN.
        select greatest(vector_norm(sum(past.embedding::vector * array_fill(past.weight, array[@dim@])::vector)),
                        0.3 * sum(past.weight * l2_norm(past.embedding))) as length
        from past
        having count(*) > 1
    )
    select candidate.item_id,
           greatest(0, p_temperature * (ln(apart.raised) - apart.mean))::real
    from mean, (
        select v.item_id, subvector(v.embedding, 1, @dim@) as direction
        from recsys.item_vector_@s@ as v
        where v.item_id = any (p_items)
    ) as candidate, lateral (
        -- What Postgres cannot raise is an error.
        select sum(product.weight * exp(greatest(-600, least(600, product.inner_product)))) as raised,
               sum(product.weight * product.inner_product) as mean
        from (
            select past.weight::float8 as weight,
                   -(past.embedding <#> candidate.direction) / (mean.length * p_temperature) as inner_product
            from past
        ) as product
    ) as apart
    where mean.length > 0;
end
$function$;
