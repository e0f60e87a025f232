-- recsys.set_capture: switch the capture triggers of a model off and on
--
--   enabled  false: the triggers queue nothing; true again: every item is queued once, because what changed in
--            between is unknown
--   raises 22023 when nothing is captured for the model
--
-- tests: tests/db/test_capture.py

create function recsys.set_capture(model text, enabled boolean, reason text default '')
returns void
language plpgsql
set search_path from current
as $function$
#variable_conflict use_variable
declare
    was boolean;
begin
    select c.enabled into was from recsys.capture as c where c.model = set_capture.model for update;
    if was is null then
        raise exception 'no changes are captured for model %', model
            using errcode = 'invalid_parameter_value', hint = format('Run ''recsys watch %s''.', model);
    end if;
    update recsys.capture as c set enabled = set_capture.enabled where c.model = set_capture.model;
    perform recsys._audit(model, null, 'capture', to_jsonb(was), to_jsonb(enabled), reason);
    if enabled and not was then
        perform recsys._request_reconcile(model, 'capture was switched on again');
    end if;
end
$function$;

comment on function recsys.set_capture(text, boolean, text) is
    'Switches the capture triggers of a model off and on; on again queues every item once.';
