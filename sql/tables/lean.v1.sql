-- recsys.model_version.lean: how much popularity counts for a query, read off its direction
--
-- The backfill fills it from the artifact "weights". The query tower computes the same; recsys.recommend() has none.

alter table recsys.model_version add lean real[];

comment on column recsys.model_version.lean is
    'Weights of the unit query''s coordinates and, last, a constant: 1 and their sum is what popularity counts. Empty: 1 for all; null: not read yet.';
