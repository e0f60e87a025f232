-- recsys._check_gate: a version serves nobody before it was compared with what serves
--
--   raises 55000 unless the newest comparison of the version with the base passed, since the version became ready
--
-- tests: tests/db/test_rollout.py

create function recsys._check_gate(p_model text, p_number integer, p_base integer)
returns void
language plpgsql
set search_path from current
as $function$
declare
    newest   record;
    ready_at timestamptz := (select v.ready_at from recsys.model_version as v
                             where v.model = p_model and v.number = p_number);
begin
    select * into newest from recsys.comparison as c
    where c.model = p_model and c.number = p_number and c.base_number = p_base and not c.limited
      and c.created_at >= ready_at
    order by c.id desc limit 1;
    if not found then
        raise exception 'version % of model % was not compared with version %, which serves', p_number, p_model, p_base
            using errcode = 'object_not_in_prerequisite_state',
                  hint = format('Run ''recsys compare %s %s'', or promote with --force --reason ''...''.', p_model, p_number);
    end if;
    if not newest.passed then
        raise exception 'version % of model % did not pass its comparison with version %: %',
            p_number, p_model, p_base, newest.verdict
            using errcode = 'object_not_in_prerequisite_state',
                  hint = 'Train again, or promote with --force --reason ''...''; the audit keeps both.';
    end if;
end
$function$;
