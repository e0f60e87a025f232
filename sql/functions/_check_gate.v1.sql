-- recsys._check_gate: a version serves nobody before it was compared with what serves
--
--   p_base   null: nothing serves, and the popularity floor takes its place
--   raises 55000 unless the newest comparison of the version with the base, since the version became ready, passed
--          by the default thresholds or stricter ones
--
-- tests: tests/db/test_rollout.py, tests/db/test_compare.py

create function recsys._check_gate(p_model text, p_number integer, p_base integer)
returns void
language plpgsql
set search_path from current
as $function$
declare
    newest   record;
    ready_at timestamptz := (select v.ready_at from recsys.model_version as v
                             where v.model = p_model and v.number = p_number);
    other    text := coalesce('version ' || p_base, 'the popularity floor');
begin
    select * into newest from recsys.comparison as c
    where c.model = p_model and c.number = p_number and c.base_number is not distinct from p_base and not c.limited
      and c.created_at >= ready_at
    order by c.id desc limit 1;
    if not found then
        raise exception 'version % of model % was not compared with %', p_number, p_model,
            case when p_base is null then other else other || ', which serves' end
            using errcode = 'object_not_in_prerequisite_state',
                  hint = format('Run ''recsys compare %s %s'', or promote with --force --reason ''...''.', p_model, p_number);
    end if;
    if not newest.passed then
        raise exception 'version % of model % did not pass its comparison with %: %',
            p_number, p_model, other, newest.verdict
            using errcode = 'object_not_in_prerequisite_state',
                  hint = 'Train again, or promote with --force --reason ''...''; the audit keeps both.';
    end if;
    if not newest.standard then
        raise exception 'version % of model % passed its comparison with % by weaker thresholds only: %',
            p_number, p_model, other, newest.verdict
            using errcode = 'object_not_in_prerequisite_state',
                  hint = format('Run ''recsys compare %s %s'' with the default thresholds and seed, or promote with --force'
                                ' --reason ''...''; the audit keeps both.', p_model, p_number);
    end if;
end
$function$;
