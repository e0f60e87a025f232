-- recsys.impression_item: every item of every logged answer

create view recsys.impression_item as
select
    i.request_id,
    i.model,
    i.version,
    i.occurred_at,
    i.user_id,
    i.unit,
    i.page_offset + s.place::integer as position,
    s.item_id,
    s.score,
    coalesce(i.channels[s.place], i.channels[1]) as channel,
    i.experiment,
    i.arm
from recsys.impression as i
cross join lateral unnest(i.item_ids, i.scores) with ordinality as s (item_id, score, place);

comment on view recsys.impression_item is
    'Every item of every logged answer, with its position (from 1), score and channel.';
