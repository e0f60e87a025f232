-- recsys.coverage: how completely a version covers its item source, counted now
--
--   model, number
--   -> source_count  items the source returns
--   -> item_count    items that have a vector
--   -> missing       items of the source without a vector
--   -> orphaned      vectors whose item the source no longer returns
--   raises           22023 unknown version
--
-- Reads the whole item source. Runs as its owner.
--
-- tests: tests/db/test_sql_functions.py

create function recsys.coverage(model text, number integer)
returns table (source_count bigint, item_count bigint, missing bigint, orphaned bigint)
language plpgsql stable security definer
set search_path from current
as $function$
begin
    if not exists (select from recsys.model_version as v
                   where v.model = coverage.model and v.number = coverage.number) then
        raise exception 'model % has no version %', model, number
            using errcode = 'invalid_parameter_value';
    end if;
    return query execute format('select * from recsys._coverage_%s_%s()', model, number);
end
$function$;

comment on function recsys.coverage(text, integer) is
    'How completely a version covers its item source, counted now.';
