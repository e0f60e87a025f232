-- recsys.nearest_items: the k items of the serving version closest to a query vector
--
--   model         name of the model
--   query_vector  query-tower output: the unit vector and, last, the weight of popularity (1 as served, 0 to
--                 ignore popularity); its length is version_status.dim
--   k             list length, 1..1000
--   exclude_ids   items never returned, as text
--   -> item_id    the application's identifier as text
--   -> score      inner product, best first; comparable within one list only
--   raises        22023 k out of range, null or wrong dimension, or unknown model; 55000 nothing serves
--
-- Runs as its owner, so that analysts need no privilege on the tables.
--
-- tests: tests/db/test_sql_functions.py

create function recsys.nearest_items(
    model        text,
    query_vector halfvec,
    k            integer default 20,
    exclude_ids  text[]  default '{}'
)
returns table (item_id text, score real)
language plpgsql stable security definer
set search_path from current
as $function$
declare
    serving record;
    wanted  integer;
begin
    perform recsys._check_k(k);
    select * into serving from recsys._serving(model);
    select v.dim into wanted from recsys.model_version as v
    where v.model = nearest_items.model and v.number = serving.number;
    if query_vector is null then
        raise exception 'the query vector is null' using errcode = 'invalid_parameter_value';
    end if;
    if vector_dims(query_vector) <> wanted then
        raise exception 'expected a query vector of % dimensions, got %',
            wanted, vector_dims(query_vector)
            using errcode = 'invalid_parameter_value',
                  hint = 'Use the query tower of the serving version.';
    end if;
    return query execute format(
        'select unnest(s.item_ids)::text, unnest(s.scores)
         from recsys._search_%s($1, $2, $3::%s[], $4) as s',
        serving.suffix, serving.item_type)
    using query_vector, k, exclude_ids, serving.ef_search;
end
$function$;

comment on function recsys.nearest_items(text, halfvec, integer, text[]) is
    'The k items of the serving version closest to a query vector, best first.';
