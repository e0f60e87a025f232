-- Remove what the experiments files of revision 0002 made.

drop view recsys.experiment_health, recsys.experiment_result, recsys.experiment_status;
drop function recsys._grant_part_experiments();
drop function recsys._experiment_keep(text);
drop function recsys._experiment_stop(text, text);
drop function recsys._experiment_start(text, text, boolean);
drop function recsys._check_experiment(text, boolean);
drop function recsys._experiment_uses(text, integer);
drop function recsys.experiment_health_at(text, timestamptz);
drop function recsys.experiment_result_at(text, timestamptz);
drop function recsys._experiment_kept(text);
drop function recsys._lift(float8);
drop function recsys._chi_square_tail(float8, integer);
drop function recsys._critical_value(float8);
drop function recsys._bilinear(float8[], float8[], float8[]);
drop function recsys._experiment_moment(text, timestamptz);
drop function recsys._experiment_unit(text, timestamptz);
drop table recsys.exposure, recsys.experiment_metric, recsys.experiment_arm, recsys.experiment;
drop function recsys._experiment_frozen();
