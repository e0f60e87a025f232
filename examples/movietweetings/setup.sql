-- A rating becomes an interaction of one of four kinds; the ratings stay as they are.
create view movie_interaction as
select
    user_id,
    item_id,
    to_timestamp(timestamp) as occurred_at,
    case
        when rating >= 9 then 'love'
        when rating >= 7 then 'like'
        when rating >= 5 then 'ok'
        else 'dislike'
    end as kind
from movie_rating;

alter table movie add primary key (item_id);
create index on movie_rating (user_id, timestamp);
create index on movie_rating (item_id);
