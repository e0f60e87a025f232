-- recsys._item_bucket: the bucket of an item in the queue, 0..63

create function recsys._item_bucket(item_id text)
returns smallint
language sql immutable strict parallel safe
return (hashtextextended(item_id collate "C", 0) & 63)::smallint;
