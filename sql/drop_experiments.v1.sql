-- Remove what the experiments files of revision 0002 made.

drop function recsys._experiment_uses(text, integer);
drop table recsys.exposure, recsys.experiment_metric, recsys.experiment_arm, recsys.experiment;
