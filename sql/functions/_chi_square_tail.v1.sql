-- recsys._chi_square_tail: chance of a chi-square variable above a statistic
--
--   df  whole degrees of freedom: the incomplete gamma function is then a finite sum
--
-- tests: tests/db/test_experiment_result.py

create function recsys._chi_square_tail(statistic float8, df integer)
returns float8
language plpgsql immutable strict parallel safe
set search_path from current
as $function$
declare
    half  float8 := statistic / 2;
    odd   float8 := df % 2;
    tail  float8 := 0;
    term  float8;  -- logarithm of half ^ power / gamma(power + 1) * exp(-half)
    power float8 := odd / 2;
begin
    if half <= 0 then
        return 1;
    end if;
    if odd = 1 then
        tail := erfc(sqrt(half));
        term := ln(half) / 2 - ln(pi()) / 2 + ln(2::float8) - half;
    else
        term := -half;
    end if;
    for step in 1..df / 2 loop
        tail := tail + exp(greatest(term, -700));
        power := power + 1;
        term := term + ln(half) - ln(power);
    end loop;
    return least(tail, 1);
end
$function$;
