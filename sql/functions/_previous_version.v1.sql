-- recsys._previous_version: the version that served before the given one and could serve again
--
--   -> number, null when there is none
--
-- "Before" is read from the promotion log: the latest version other than p_number that served and is still
-- ready. Versions that never served do not count: nobody has seen them answer.
--
-- tests: tests/db/test_versions.py

create function recsys._previous_version(p_model text, p_number integer)
returns integer
language sql stable
begin atomic
    select p.number
    from recsys.promotion as p
    join recsys.model_version as v on v.model = p.model and v.number = p.number
    where p.model = p_model and p.number <> p_number and v.state = 'ready'
    order by p.id desc
    limit 1;
end;
