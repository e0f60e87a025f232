-- recsys._hand_over: let others answer the users of a version that is about to be dropped
--
--   p_stop_serving  when nothing can take over: stop serving instead of refusing
--   raises 55000 when it is the base and no earlier version can take over

create function recsys._hand_over(p_model text, p_number integer, p_stop_serving boolean default false)
returns void
language plpgsql
set search_path from current
set lock_timeout = '5s'
as $function$
declare
    served    recsys.rollout;
    successor integer;
begin
    perform from recsys.model where name = p_model for update;
    select * into served from recsys.rollout as r where r.model = p_model and r.number = p_number;
    if served.number is null then
        return;
    end if;
    if served.candidate then
        select r.number into successor from recsys.rollout as r where r.model = p_model and not r.candidate;
    elsif exists (select from recsys.rollout as r where r.model = p_model and r.candidate) then
        select r.number into successor from recsys.rollout as r where r.model = p_model and r.candidate;
        if not p_stop_serving then
            raise exception 'version % of model % is the base, and version % is being rolled out beside it',
                p_number, p_model, successor
                using errcode = 'object_not_in_prerequisite_state',
                      hint = format('Finish that, ''recsys promote %s %s'', or end it, ''recsys rollback %s''.', p_model, successor, p_model);
        end if;
    else
        successor := recsys._previous_version(p_model, p_number);
    end if;
    if successor is null and not p_stop_serving then
        raise exception 'version % of model % is serving and no earlier version can take over', p_number, p_model
            using errcode = 'object_not_in_prerequisite_state',
                  hint = format('Promote another version first, or stop serving with ''recsys promote %s none''.', p_model);
    end if;
    perform recsys._promote(p_model, successor, 100, format('version %s dropped', p_number), 'drop');
end
$function$;
