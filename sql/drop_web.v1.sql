-- Remove what revision 0003 made, the last first.

drop function if exists recsys._grant_part_web();
drop view if exists recsys.slow_log;
drop function if exists recsys._keep_slow_request(json);
drop table if exists recsys.slow_request;
drop function if exists recsys._candidates;
drop function if exists recsys._cost;
alter table recsys.model_version drop column if exists recall_curve;
