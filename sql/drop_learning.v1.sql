-- Remove what revision 0004 made, the last first.

drop function if exists recsys._grant_part_learning();
drop table if exists recsys.text_embedding;
drop table if exists recsys.item_trend;
drop view if exists recsys.update_log;
drop table if exists recsys.id_update_seen;
drop table if exists recsys.id_update_row;
drop table if exists recsys.id_update;
drop function if exists recsys._candidates;
