-- recsys._plan: how the users of a model are assigned to versions, in one snapshot with the generation
--
--   -> generation  of the model
--   -> salt        of the rollout
--   -> base, candidate, percent  null where there is none
--   -> experiment  the running one as {"name", "salt", "traffic", "arms": [{"arm", "number", "share"}]}, or null
--
-- tests: tests/db/test_assignment.py

create function recsys._plan(p_model text)
returns table (generation bigint, salt text, base integer, candidate integer, percent numeric, experiment jsonb)
language plpgsql stable
set search_path from current
as $function$
#variable_conflict use_column
begin
    return query select m.generation, m.salt, b.number, c.number, c.percent,
        (select jsonb_build_object(
                    'name', e.name, 'salt', e.salt, 'traffic', e.traffic,
                    'arms', (select jsonb_agg(jsonb_build_object('arm', a.arm, 'number', a.number, 'share', a.share)
                                              order by a.arm collate "C")
                             from recsys.experiment_arm as a where a.experiment = e.name))
         from recsys.experiment as e where e.model = m.name and e.state = 'running' limit 1)
    from recsys.model as m
    left join recsys.rollout as b on b.model = m.name and not b.candidate
    left join recsys.rollout as c on c.model = m.name and c.candidate
    where m.name = p_model;
end
$function$;
