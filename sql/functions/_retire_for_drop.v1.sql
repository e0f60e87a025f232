-- recsys._retire_for_drop: make sure nobody is served by a version that is about to be dropped
--
--   p_stop_serving  when nothing can take over: stop serving instead of refusing
--   -> nothing; deletes the registry row, the caller drops the tables in the same transaction
--   raises 55000 when the version serves and no earlier one can take over, 55P03 a lock was not to be had for 5 seconds
--
-- tests: tests/migrations/test_model_revisions.py

create function recsys._retire_for_drop(p_model text, p_number integer, p_stop_serving boolean default false)
returns void
language plpgsql
set search_path from current
set lock_timeout = '5s'
as $function$
declare
    successor integer;
begin
    perform from recsys.model where name = p_model for update;
    if exists (select from recsys.rollout where model = p_model and number = p_number) then
        successor := recsys._previous_version(p_model, p_number);
        if successor is null and not p_stop_serving then
            raise exception 'version % of model % is serving and no earlier version can take over',
                p_number, p_model
                using errcode = 'object_not_in_prerequisite_state',
                      hint = format('Promote another version first, or stop serving with ''recsys promote %s none''.', p_model);
        end if;
        perform recsys._promote(p_model, successor, format('version %s dropped', p_number), 'drop');
    end if;
    delete from recsys.model_version where model = p_model and number = p_number;
end
$function$;
