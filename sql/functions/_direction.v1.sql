-- recsys._direction: an item vector as a query that asks for similar items
--
--   embedding  item vector: learned unit vector and, last, the popularity dimension
--   -> the same with popularity set to 0, so that the inner product is the cosine
--
-- tests: tests/db/test_sql_functions.py

create function recsys._direction(embedding halfvec)
returns halfvec
language sql immutable parallel safe
as $function$
    select subvector(embedding, 1, vector_dims(embedding) - 1) || '[0]'::halfvec
$function$;
