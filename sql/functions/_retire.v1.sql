-- recsys._retire: a version that no longer follows the source and cannot serve; its tables stay until dropped
--
--   raises 22023 unknown version; 55000 it serves or an experiment uses it; 55P03 a lock was not to be had
--
-- A process that still answers by it is not disturbed: the tables are there, and its next request reads the new
-- generation of the switch that took the version out of service.
--
-- tests: tests/db/test_rollout.py

create function recsys._retire(p_model text, p_number integer, p_reason text default '')
returns void
language plpgsql
set search_path from current
set lock_timeout = '5s'
as $function$
declare
    current text;
begin
    perform from recsys.model where name = p_model for update;
    select v.state into current from recsys.model_version as v
    where v.model = p_model and v.number = p_number for update;
    if current is null then
        raise exception 'model % has no version %', p_model, p_number using errcode = 'invalid_parameter_value';
    elsif current = 'retired' then
        return;
    elsif current = 'serving' then
        raise exception 'version % of model % is serving', p_number, p_model
            using errcode = 'object_not_in_prerequisite_state',
                  hint = 'Promote another version, or roll back, first.';
    end if;
    perform recsys._check_unused(p_model, p_number);
    update recsys.model_version set state = 'retired', retired_at = now(), error = null
    where model = p_model and number = p_number;
    delete from recsys.item_gone where model = p_model and number = p_number;
    delete from recsys.item_failure where model = p_model and number = p_number;
    perform recsys._audit(p_model, p_number, 'retire', to_jsonb(current), '"retired"', p_reason);
end
$function$;
