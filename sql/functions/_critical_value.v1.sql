-- recsys._critical_value: the two-sided bound of the standard normal, 1.96 for 0.05
--
-- Newton's method from 0 on erfc(z / sqrt(2)) = alpha, which is convex: it never overshoots. Postgres has no
-- quantile function; erfc() came with Postgres 16.
--
-- tests: tests/db/test_experiment_result.py

create function recsys._critical_value(alpha float8)
returns float8
language plpgsql immutable strict parallel safe
set search_path from current
as $function$
declare
    z    float8 := 0;
    step float8;
begin
    for i in 1..100 loop
        step := (erfc(z / sqrt(2::float8)) - alpha) / (sqrt(2::float8 / pi()) * exp(-z * z / 2));
        z := z + step;
        exit when abs(step) < 1e-13;
    end loop;
    return z;
end
$function$;
