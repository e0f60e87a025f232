-- recsys._superfluous: ready versions that the clean-up may retire
--
--   -> number  older than every serving version, not what a rollback would go to, in no running experiment, has not
--              served for model.grace, and beyond the newest model.keep_versions of that kind
--
-- tests: tests/db/test_clean_up.py

create function recsys._superfluous(p_model text)
returns table (number integer)
language plpgsql stable
set search_path from current
as $function$
#variable_conflict use_column
begin
    return query
    select spare.number
    from (
        select v.number, row_number() over (order by v.number desc) as place
        from recsys.model_version as v
        where v.model = p_model and v.state = 'ready'
          and greatest(v.last_served_at, v.ready_at) < now() - (select m.grace from recsys.model as m where m.name = p_model)
          and v.number < (select min(r.number) from recsys.rollout as r where r.model = p_model)
          and v.number is distinct from recsys._previous_version(
              p_model, (select r.number from recsys.rollout as r where r.model = p_model and not r.candidate))
          and recsys._experiment_uses(p_model, v.number) is null
    ) as spare
    where spare.place > (select m.keep_versions from recsys.model as m where m.name = p_model);
end
$function$;
