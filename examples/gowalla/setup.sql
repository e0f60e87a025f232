-- At request time a user's history and an item's popularity are read by index.
create index on gowalla_interaction (user_id);
create index on gowalla_interaction (item_id);
