-- Remove what the impressions files of revision 0002 made.

drop function recsys._grant_part_impressions();
drop function recsys._guard_moments(text, integer[], timestamptz, real);
drop function recsys._drop_old_partitions(interval, integer);
drop function recsys._make_partitions(integer);
drop function recsys._log_outcome(uuid, text, text, text, text, numeric, timestamptz);
drop function recsys._log_answers(json, json);
drop view recsys.version_outcome, recsys.impression_item;
drop table recsys.guardrail, recsys.retention, recsys.outcome, recsys.impression;
