-- recsys.similar_items: the k items most like one item, by the serving version
--
--   model       name of the model
--   item        the application's identifier: bigint, uuid or text
--   k           list length, 1..1000
--   -> item_id  the application's identifier as text; never the item itself
--   -> score    cosine similarity of the learned vectors in [-1, 1], best first; popularity plays no part
--   raises      22023 k out of range or unknown model, 55000 nothing serves, P0002 the item has no vector
--
-- Runs as its owner, so that analysts need no privilege on the tables.
--
-- tests: tests/db/test_sql_functions.py

create function recsys.similar_items(model text, item text, k integer default 20)
returns table (item_id text, score real)
language plpgsql stable security definer
set search_path from current
as $function$
declare
    serving record;
    query   halfvec;
begin
    perform recsys._check_k(k);
    select * into serving from recsys._serving(model);
    execute format('select recsys._direction(embedding) from recsys.item_vector_%s where item_id = $1::%s',
                   serving.suffix, serving.item_type)
    into query using item;
    if query is null then
        raise exception 'item % has no vector in model % version %', item, model, serving.number
            using errcode = 'no_data_found',
                  hint = 'New items get a vector at the next ''recsys backfill''.';
    end if;
    return query execute format(
        'select unnest(s.item_ids)::text, unnest(s.scores)
         from recsys._search_%s($1, $2, array[$3]::%s[], $4) as s',
        serving.suffix, serving.item_type)
    using query, k, item, serving.ef_search;
end
$function$;

comment on function recsys.similar_items(text, text, integer) is
    'The k items most like one item by the serving version, best first.';

create function recsys.similar_items(model text, item bigint, k integer default 20)
returns table (item_id text, score real)
language sql stable security definer
set search_path from current
as $function$ select * from recsys.similar_items(model, item::text, k) $function$;

comment on function recsys.similar_items(text, bigint, integer) is
    'The k items most like one item by the serving version, best first.';

create function recsys.similar_items(model text, item uuid, k integer default 20)
returns table (item_id text, score real)
language sql stable security definer
set search_path from current
as $function$ select * from recsys.similar_items(model, item::text, k) $function$;

comment on function recsys.similar_items(text, uuid, integer) is
    'The k items most like one item by the serving version, best first.';
