-- Remove what the live files of revision 0002 made, and put back what they replaced.
--
-- Refuses while capture triggers stand on the application's tables: they call functions that go away.

do $block$
declare
    routine   regprocedure;
    remaining text;
begin
    select string_agg(distinct t.tgrelid::regclass::text, ', ') into remaining
    from pg_catalog.pg_trigger as t
    join pg_catalog.pg_proc as p on p.oid = t.tgfoid
    where p.pronamespace = 'recsys'::regnamespace and p.proname ~ '^_capture__';
    if remaining is not null then
        raise exception 'changes are still captured on: %', remaining
            using errcode = 'object_not_in_prerequisite_state',
                  hint = 'Run ''recsys unwatch MODEL'' first.';
    end if;
    for routine in
        select p.oid::regprocedure from pg_catalog.pg_proc as p
        where p.pronamespace = 'recsys'::regnamespace and p.proname ~ '^_capture__'
    loop
        execute format('drop function %s', routine);
    end loop;
end
$block$;

drop view recsys.rollout_status, recsys.change_status, recsys.dead_letter, recsys.audit_log, recsys.version_status;
drop trigger audit_state on recsys.model_version;
drop function
    recsys._grant_part_live(),
    recsys.recommend(text, text, integer),
    recsys.recommend(text, bigint, integer),
    recsys.recommend(text, uuid, integer),
    recsys._register_version(text, integer, text, text, integer, jsonb, jsonb, jsonb),
    recsys.set_capture(text, boolean, text),
    recsys._request_reconcile(text, text),
    recsys._queue_items(text, text[]),
    recsys._claim_changes(text, integer),
    recsys._lock_buckets(text, smallint[]),
    recsys._item_bucket(text),
    recsys._plan(text),
    recsys._serving(text, text),
    recsys._assign(text, text),
    recsys._superfluous(text),
    recsys._retire(text, integer, text),
    recsys._rollback(text, text),
    recsys._retire_for_drop(text, integer, boolean),
    recsys._hand_over(text, integer, boolean),
    recsys._promote(text, integer, numeric, text, text, boolean, boolean),
    recsys._previous_version(text, integer),
    recsys._end_ramp(text, text),
    recsys._check_unused(text, integer),
    recsys._check_gate(text, integer, integer),
    recsys._check_promotable(text, integer),
    recsys._audit_state(),
    recsys._rollout(text),
    recsys._numbers(text, integer),
    recsys._audit(text, integer, text, jsonb, jsonb, text, jsonb),
    recsys._bucket(text, text);
drop table recsys.schedule, recsys.worker, recsys.item_gone, recsys.item_failure, recsys.item_lookup, recsys.item_change,
    recsys.capture, recsys.ramp, recsys.audit;
drop sequence recsys.capture_failure;

-- One version serves everybody again: whoever was the base.
delete from recsys.rollout where candidate;
update recsys.rollout set percent = 100;
update recsys.model_version as v set state = 'ready'
where v.state = 'serving' and not exists (
    select from recsys.rollout as r where r.model = v.model and r.number = v.number);
update recsys.model set generation = generation + 1;
delete from recsys.promotion where kind = 'percent';
alter table recsys.promotion
    drop column percent,
    drop constraint promotion_kind_is_known,
    add constraint promotion_kind_is_known check (kind in ('promote', 'rollback', 'drop'));
drop index recsys.rollout_roles;
alter table recsys.rollout drop column candidate;
alter table recsys.model_version drop column trained_until, drop column last_served_at, drop column retired_at;
alter table recsys.model drop column salt, drop column keep_versions, drop column grace;
