-- recsys._lift: the relative change that a logarithm of a ratio stands for
--
-- Bounded: beyond e^700 it says nothing and would overflow.
--
-- tests: tests/db/test_experiment_result.py

create function recsys._lift(log_ratio float8)
returns float8
language sql immutable strict parallel safe
return exp(greatest(least(log_ratio, 700), -700)) - 1;
