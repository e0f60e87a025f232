-- recsys.dead_letter: items whose vector could not be made, given up after several attempts, with the error

create view recsys.dead_letter as
select f.model, f.number, f.item_id, f.attempts, f.error, f.since, f.failed_at
from recsys.item_failure as f
where f.retry_at is null;

comment on view recsys.dead_letter is
    'Items whose vector could not be made and is not tried again by itself: the error, since when. ''recsys retry'' tries again.';
