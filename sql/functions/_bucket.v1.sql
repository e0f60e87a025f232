-- recsys._bucket: the bucket of a unit, 0..9999, by a salted hash
--
--   salt     of the rollout or the experiment
--   unit     what is bucketed: the user id as text, or the key of an anonymous session
--   -> the first 32 bits of sha256(salt ':' unit), scaled; recsys.assignment.bucket is the same in Python
--
-- tests: tests/db/test_assignment.py

create function recsys._bucket(salt text, unit text)
returns integer
language sql immutable strict parallel safe
return ((('x' || left(encode(sha256(convert_to(salt || ':' || unit, 'UTF8')), 'hex'), 8))::bit(32)::bigint * 10000) >> 32)::integer;
