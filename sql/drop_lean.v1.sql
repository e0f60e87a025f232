-- Remove what revision 0005 made, the last first.

drop function if exists recsys._leaning(halfvec, real[]);
alter table recsys.model_version drop column if exists lean;

-- What recommend.v2.sql does not say again.
comment on function recsys.recommend(text, text, integer) is
    'k items for one user by the serving version, computed in SQL from the history alone, best first.';

comment on function recsys.recommend(text, bigint, integer) is
    'k items for one user by the serving version, computed in SQL from the history alone, best first.';

comment on function recsys.recommend(text, uuid, integer) is
    'k items for one user by the serving version, computed in SQL from the history alone, best first.';
