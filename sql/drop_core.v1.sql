-- Remove the core schema; refuses while a model version exists, because its tables hold work.
--
-- The group roles stay: other databases of the server may use them.

do $block$
declare
    remaining text;
begin
    select string_agg(format('%s %s', model, number), ', ') into remaining from recsys.model_version;
    if remaining is not null then
        raise exception 'model versions still exist: %', remaining
            using errcode = 'object_not_in_prerequisite_state',
                  hint = 'Drop them first: ''recsys drop MODEL NUMBER'', or ''recsys downgrade model@base''.';
    end if;
end
$block$;

drop view recsys.switch_log, recsys.version_metric, recsys.version_status;
drop function recsys._grant_version(text);
drop function recsys._grant_core();
drop function recsys.coverage(text, integer);
drop function recsys.recommend(text, uuid, integer);
drop function recsys.recommend(text, bigint, integer);
drop function recsys.recommend(text, text, integer);
drop function recsys.similar_items(text, uuid, integer);
drop function recsys.similar_items(text, bigint, integer);
drop function recsys.similar_items(text, text, integer);
drop function recsys.nearest_items(text, halfvec, integer, text[]);
drop function recsys._retire_for_drop(text, integer, boolean);
drop function recsys._previous_version(text, integer);
drop function recsys._promote(text, integer, text, text);
drop function recsys._register_version(text, integer, text, text, integer, jsonb, jsonb, jsonb);
drop function recsys._next_number(text, text, text);
drop function recsys._serving(text);
drop function recsys._direction(halfvec);
drop function recsys._check_k(integer);
drop function recsys.schema_version();
drop table recsys.interaction, recsys.promotion, recsys.rollout, recsys.model_version,
    recsys.artifact, recsys.model;
