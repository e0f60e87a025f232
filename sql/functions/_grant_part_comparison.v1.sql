-- recsys._grant_part_comparison: the privileges on comparisons; _grant_core calls it
--
-- A trainer compares and stores; triggers on the table are nobody's, because _promote reads it as its caller.
--
-- tests: tests/db/test_compare.py

create function recsys._grant_part_comparison()
returns void
language plpgsql
set search_path from current
as $function$
begin
    revoke all on recsys.comparison, recsys.version_comparison from public;
    if to_regrole('recsys_analyst') is not null then
        grant select on recsys.version_comparison to recsys_analyst;
    end if;
    if to_regrole('recsys_trainer') is not null then
        grant select, insert, update, delete on recsys.comparison to recsys_trainer;
        grant select on recsys.version_comparison to recsys_trainer;
        revoke trigger, truncate, references on recsys.comparison from recsys_trainer;
    end if;
end
$function$;
