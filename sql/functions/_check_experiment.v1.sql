-- recsys._check_experiment: refuse to start what cannot be evaluated or served
--
--   p_force  without the comparisons that the arms need
--   raises 55000 with a hint
--
-- An arm serves users as a rollout does, so its version needs what a promotion needs: a comparison with the base that
-- passed.
--
-- tests: tests/db/test_experiment_store.py

create function recsys._check_experiment(p_name text, p_force boolean default false)
returns void
language plpgsql
set search_path from current
as $function$
declare
    e       recsys.experiment;
    arms    record;
    wrong   record;
    base    integer;
    words   text;
    advice  text;
begin
    select * into e from recsys.experiment where name = p_name;
    select count(*) as n, sum(a.share) as total, count(*) filter (where a.is_control) as controls,
           count(a.number) as numbered
    into arms from recsys.experiment_arm as a where a.experiment = p_name;
    if arms.n < 2 or arms.controls <> 1 or arms.numbered < arms.n then
        raise exception 'experiment % needs two arms or more, each with a version, and exactly one control', p_name
            using errcode = 'object_not_in_prerequisite_state',
                  hint = format('It has %s arms, %s of them controls.', arms.n, arms.controls);
    elsif arms.total <> 100 then
        raise exception 'the shares of experiment % add up to %, not 100', p_name, arms.total
            using errcode = 'object_not_in_prerequisite_state', hint = 'Create it again with other shares.';
    elsif not exists (select from recsys.experiment_metric as m
                      where m.experiment = p_name and m.metric = e.primary_metric) then
        raise exception 'experiment % does not measure its primary metric %', p_name, e.primary_metric
            using errcode = 'object_not_in_prerequisite_state', hint = 'Create it again with that metric.';
    end if;
    -- Locked, so that none is retired or dropped before this commits.
    for wrong in
        select a.arm, a.number, v.state
        from recsys.experiment_arm as a
        left join lateral (select v.state from recsys.model_version as v
                           where v.model = e.model and v.number = a.number for update) as v on true
        where a.experiment = p_name and v.state is distinct from 'ready' and v.state is distinct from 'serving'
        order by a.arm
    loop
        raise exception 'arm % of experiment % needs version % of model %, which %', wrong.arm, p_name, wrong.number,
            e.model, coalesce('is ' || wrong.state || ', not ready', 'does not exist')
            using errcode = 'object_not_in_prerequisite_state',
                  hint = format('''recsys versions %s'' shows the versions; ''recsys backfill %s %s'' makes one ready.',
                                e.model, e.model, wrong.number);
    end loop;
    if p_force then
        return;
    end if;
    select r.number into base from recsys.rollout as r where r.model = e.model and not r.candidate;
    for wrong in
        select a.arm, a.number from recsys.experiment_arm as a
        where a.experiment = p_name and a.number is distinct from base
        order by a.arm
    loop
        begin
            perform recsys._check_gate(e.model, wrong.number, base);
        exception when object_not_in_prerequisite_state then
            get stacked diagnostics words = message_text, advice = pg_exception_hint;
            raise exception 'arm % of experiment %: %', wrong.arm, p_name, words
                using errcode = 'object_not_in_prerequisite_state',
                      hint = replace(advice, 'promote with', 'start with');
        end;
    end loop;
end
$function$;
