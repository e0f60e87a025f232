-- recsys._state_@s@: everything a request needs about a known user, in one snapshot
--
--   p_user    the user
--   p_before  epoch seconds: only interactions before it count; null: all (evaluation looks back in time)
--   -> generation  of the model; when it differs from the process's, reload and ask again
--   -> seen        the user's items
--   -> weights     of the history rows
--   -> history     the history rows of this version, newest first, packed by halfvec_send
--   -> features    user features as the encoder takes them

create or replace function recsys._state_@s@(p_user @user_type@, p_before float8 default null)
returns table (generation bigint, seen @item_type@[], weights real[], history bytea, features jsonb)
language plpgsql stable
-- Planning these statements takes longer than running them, and no value changes the plan.
set plan_cache_mode = force_generic_plan
as $function$
#variable_conflict use_column
begin
    return query
    select m.generation, past.seen, past.weights, past.history, @features@
    from recsys.model as m, (
        select array_agg(ranked.item_id) as seen,
               array_agg(ranked.weight order by ranked.place)
                   filter (where ranked.packed is not null) as weights,
               string_agg(ranked.packed, ''::bytea order by ranked.place) as history
        from (
            select item.item_id, item.weight, item.place,
                   case when item.weight > 0 and item.place <= @history@ then
                       (select halfvec_send(h.embedding) from recsys.item_embedding_@s@ as h
                        where h.item_id = item.item_id)
                   end as packed
            from (
                select event.item_id, max(event.weight) as weight,
                       row_number() over (order by max(event.weight) > 0 desc,
                                                   max(event.occurred_at) desc nulls last,
                                                   event.item_id) as place
                from (
@recent@
                ) as event
                group by event.item_id
            ) as item
        ) as ranked
    ) as past
    where m.name = @model_literal@;
end
$function$;

-- recsys._session_@s@: the same for a history given by the caller, in the caller's order, all of weight 1

create or replace function recsys._session_@s@(p_items @item_type@[], p_user @user_type@ default null)
returns table (generation bigint, seen @item_type@[], weights real[], history bytea, features jsonb)
language plpgsql stable
as $function$
#variable_conflict use_column
begin
    return query
    with past as materialized (
        select given.position, h.embedding
        from unnest(p_items) with ordinality as given(item_id, position)
        join recsys.item_embedding_@s@ as h on h.item_id = given.item_id
        order by given.position
        limit @history@
    )
    select
        m.generation,
        p_items,
        past_rows.weights,
        past_rows.rows,
        @features@
    from recsys.model as m,
        (select array_agg(1::real) as weights,
                string_agg(halfvec_send(past.embedding), ''::bytea order by past.position) as rows
         from past) as past_rows
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
    with event as materialized (
@recent@
    ), item as materialized (
        select event.item_id, max(event.weight) as weight, max(event.occurred_at) as occurred_at
        from event
        group by event.item_id
    ), past as materialized (
        select item.weight, h.embedding
        from item
        join recsys.item_embedding_@s@ as h on h.item_id = item.item_id
        where item.weight > 0
        order by item.occurred_at desc nulls last, item.item_id
        limit @history@
    ), taste as (
        select sum(past.embedding::vector * array_fill(past.weight, array[@dim@])::vector) as total from past
    )
    select
        (l2_normalize(coalesce(taste.total, v.default_query::vector)) || '[1]'::vector)::halfvec,
        coalesce((select array_agg(item.item_id) from item), '{}')
    from taste, recsys.model_version as v
    where v.model = @model_literal@ and v.number = @number@;
end
$function$;
