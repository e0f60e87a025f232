-- recsys._bilinear: covariance of two linear combinations of the four sums of a metric
--
--   a, b   weights of the four
--   cov    4 x 4, row by row
--
-- tests: tests/db/test_experiment_result.py

create function recsys._bilinear(a float8[], cov float8[], b float8[])
returns float8
language sql immutable strict parallel safe
return (select sum(a[i] * cov[4 * i + j - 4] * b[j])
        from generate_series(1, 4) as i cross join generate_series(1, 4) as j);
