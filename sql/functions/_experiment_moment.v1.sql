-- recsys._experiment_moment: means and covariances per metric and arm, and over all arms (arm null)
--
--   -> users
--   -> mean  numerator, denominator, covariate, covariate's denominator
--   -> cov   their 4 x 4 sample covariance, row by row; zeros below two users
--
-- tests: tests/db/test_experiment_result.py

create function recsys._experiment_moment(p_experiment text, p_until timestamptz)
returns table (metric text, arm text, users bigint, mean float8[], cov float8[])
language sql stable
as $function$
    select m.metric, m.arm, m.users, array[m.n, m.d, m.x, m.w],
           case when m.users < 2 then array_fill(0::float8, array[16])
                else array[m.nn, m.nd, m.nx, m.nw, m.nd, m.dd, m.dx, m.dw,
                           m.nx, m.dx, m.xx, m.xw, m.nw, m.dw, m.xw, m.ww] end
    from (
        select u.metric, u.arm, count(*) as users,
               avg(u.numerator) as n, avg(u.denominator) as d,
               avg(u.covariate) as x, avg(u.covariate_denominator) as w,
               var_samp(u.numerator) as nn, covar_samp(u.numerator, u.denominator) as nd,
               covar_samp(u.numerator, u.covariate) as nx, covar_samp(u.numerator, u.covariate_denominator) as nw,
               var_samp(u.denominator) as dd, covar_samp(u.denominator, u.covariate) as dx,
               covar_samp(u.denominator, u.covariate_denominator) as dw,
               var_samp(u.covariate) as xx, covar_samp(u.covariate, u.covariate_denominator) as xw,
               var_samp(u.covariate_denominator) as ww
        from recsys._experiment_unit(p_experiment, p_until) as u
        group by grouping sets ((u.metric, u.arm), (u.metric))
    ) as m
$function$;
