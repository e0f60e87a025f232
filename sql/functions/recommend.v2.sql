-- recsys.recommend: k items for one user, by the version that serves this user, from SQL alone
--
--   model       name of the model
--   user_id     the application's identifier: bigint, uuid or text
--   k           list length, 1..1000
--   -> item_id  the application's identifier as text; nothing the user has interacted with
--   -> score    inner product, best first; comparable within one list only
--   raises      22023 k out of range or unknown model; 55000 nothing serves
--
-- How it differs from Recommender.recommend() in Python: the query vector is computed here as the weighted
-- mean of the user's history, without the query tower. For a model without user and context features the
-- two agree up to rounding; with them, this function leaves the features out.
--
-- Runs as its owner, so that analysts need no privilege on the tables.
--
-- tests: tests/db/test_sql_functions.py

create or replace function recsys.recommend(model text, user_id text, k integer default 20)
returns table (item_id text, score real)
language plpgsql stable security definer
set search_path from current
as $function$
declare
    serving record;
begin
    perform recsys._check_k(k);
    -- One user, one spelling: '07' and 7 are in the same bucket.
    execute format('select ($1::%s)::text',
                   coalesce((select m.user_type from recsys.model as m where m.name = recommend.model), 'text'))
    into user_id using user_id;
    select * into serving from recsys._serving(model, user_id);
    return query execute format(
        'select unnest(s.item_ids)::text, unnest(s.scores)
         from recsys._query_%1$s($1::%2$s) as q, recsys._search_%1$s(q.query, $2, q.seen, $3) as s',
        serving.suffix, serving.user_type)
    using user_id, k, serving.ef_search;
end
$function$;

