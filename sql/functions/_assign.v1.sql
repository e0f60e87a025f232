-- recsys._assign: the version that answers a unit, as recsys.assignment.Plan.assign does in Python
--
--   p_unit  the user id as text, or the key of a session; null: the base
--   -> number, null when nothing serves
--
-- A running experiment comes first: its traffic and its arms have salts of their own, so that experiments are
-- independent of each other and of the rollout.
--
-- tests: tests/db/test_assignment.py

create function recsys._assign(p_model text, p_unit text)
returns integer
language plpgsql stable
set search_path from current
as $function$
declare
    running record;
    place   integer;
    wanted  integer;
begin
    select e.name, e.salt, e.traffic into running
    from recsys.experiment as e where e.model = p_model and e.state = 'running';
    if found and p_unit is not null
       and recsys._bucket(running.salt || ':traffic', p_unit) < running.traffic * 100 then
        place := recsys._bucket(running.salt, p_unit);
        select arms.number into wanted
        from (select a.number, sum(a.share) over (order by a.arm collate "C") * 100 as upper
              from recsys.experiment_arm as a where a.experiment = running.name) as arms
        where place < arms.upper
        order by arms.upper limit 1;
        if wanted is not null then
            return wanted;
        end if;
    end if;
    return (select r.number
            from recsys.model as m join recsys.rollout as r on r.model = m.name
            where m.name = p_model
              and (not r.candidate or recsys._bucket(m.salt, p_unit) < r.percent * 100)
            order by r.candidate desc limit 1);
end
$function$;
