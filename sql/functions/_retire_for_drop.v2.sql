-- recsys._retire_for_drop: make sure nobody is served by a version that is about to be dropped
--
--   p_stop_serving  when nothing can take over: stop serving instead of refusing
--   -> nothing; deletes the registry row, the caller drops the tables in the same transaction
--   raises 55000 when the version serves and no earlier one can take over, or an experiment uses it; 55P03 a lock
--          was not to be had for 5 seconds
--
-- tests: tests/migrations/test_model_revisions.py

create or replace function recsys._retire_for_drop(p_model text, p_number integer, p_stop_serving boolean default false)
returns void
language plpgsql
set search_path from current
set lock_timeout = '5s'
as $function$
begin
    perform from recsys.model where name = p_model for update;
    perform recsys._check_unused(p_model, p_number);
    perform recsys._hand_over(p_model, p_number, p_stop_serving);
    delete from recsys.item_gone where model = p_model and number = p_number;
    delete from recsys.item_failure where model = p_model and number = p_number;
    delete from recsys.model_version where model = p_model and number = p_number;
end
$function$;
