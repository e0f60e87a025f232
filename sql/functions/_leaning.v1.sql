-- recsys._leaning: a query for which popularity counts as its direction says
--
--   p_query  query vector: unit vector and, last, 1
--   p_lean   weights of the unit vector's coordinates and, last, a constant; null: the query stays as it is
--   -> the same with 1 + unit . weights + constant in the last place
--
-- tests: tests/db/test_sql_functions.py

create function recsys._leaning(p_query halfvec, p_lean real[])
returns halfvec
language sql immutable parallel safe
as $function$
    -- The 1 in the last place of the query takes the constant into the product, which <#> negates.
    select case when p_lean is null then p_query else
        subvector(p_query, 1, vector_dims(p_query) - 1)
        || array[1 - (p_query::vector <#> p_lean::vector)]::halfvec end
$function$;
