-- recsys.update_log: the incremental updates, with the quality of the rows before each of them
--
-- users, recall, ndcg, hit_rate  progressive validation: the rows before the update on interactions they were not trained
--                                on; at 20, the hit rate at 10
-- guard_before, guard_after      NDCG@20 on the newest interactions, of the rows before and of rows trained on the older
-- can_undo                       the rows before it are still kept

create view recsys.update_log as
select
    u.id,
    u.model,
    u.number,
    u.state,
    u.began_at,
    extract(epoch from u.ended_at - u.began_at)::double precision as seconds,
    u.since,
    u.until,
    u.read,
    u.trained,
    u.left_out,
    u.changed,
    (u.metrics ->> 'users')::bigint as users,
    (u.metrics ->> 'recall')::double precision as recall,
    (u.metrics ->> 'ndcg')::double precision as ndcg,
    (u.metrics ->> 'hit_rate')::double precision as hit_rate,
    (u.metrics #>> '{guard,before}')::double precision as guard_before,
    (u.metrics #>> '{guard,after}')::double precision as guard_after,
    u.state = 'published' and exists (select from recsys.id_update_row as r where r.update_id = u.id) as can_undo,
    u.reason
from recsys.id_update as u;

comment on view recsys.update_log is
    'Incremental updates of the learned rows: what was read and written, quality before, and whether it can be undone.';
