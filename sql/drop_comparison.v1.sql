-- Remove what the comparison files of revision 0002 made.

drop function recsys._grant_part_comparison();
drop view recsys.version_comparison;
drop table recsys.comparison;
