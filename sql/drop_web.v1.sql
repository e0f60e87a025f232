-- Remove what revision 0003 made, the last first.

drop function if exists recsys._grant_part_web();
