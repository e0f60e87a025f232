-- recsys._cost: what the planner thinks a statement of _candidates costs; the statement does not run
--
--   p_statement  one statement; $1 and $2 are the query vector and item ids, $3 a score, $4 a count
--   -> total cost, in the planner's unit
--
-- Volatile, for EXPLAIN is not allowed in a stable function. A loop opens a cursor, which takes one statement only:
-- what follows a semicolon is an error and does not run.
--
-- tests: tests/db/test_candidates.py

create function recsys._cost(
    p_statement text,
    p_query     halfvec,
    p_ids       anyarray,
    p_score     real,
    p_count     integer
)
returns float8
language plpgsql volatile
as $function$
declare
    plan json;
begin
    for plan in execute 'explain (format json) ' || p_statement using p_query, p_ids, p_score, p_count loop
        return (plan -> 0 -> 'Plan' ->> 'Total Cost')::float8;
    end loop;
end
$function$;
