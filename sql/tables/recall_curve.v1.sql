-- recsys.model_version.recall_curve: the ANN recall that was measured, by candidate count
--
-- The calibration of a backfill fills it. A request with a recall target of its own takes the smallest count that
-- reached it.

alter table recsys.model_version add recall_curve jsonb;

comment on column recsys.model_version.recall_curve is
    'Measured ANN recall@20, as [[ef_search, recall], ...] by rising ef_search; null: measured before there were curves.';
