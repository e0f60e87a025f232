-- Capture of one partitioned table for one model, by row: Postgres copies row triggers to every partition, also to
-- those that come later, while a statement trigger of the parent misses what is written to a partition directly.
--
-- Everything else is as in statement.sql.

create or replace function recsys.@function@()
returns trigger
language plpgsql security definer
set search_path = @search_path@
set lock_timeout = '100ms'
as $capture$
begin
    -- Not "exists ... enabled": a transaction with a snapshot from before 'recsys watch' does not see the row.
    if exists (select from recsys.capture as c where c.model = @model@ and not c.enabled) then
        return null;
    end if;
    if tg_op = 'TRUNCATE' then
        insert into recsys.item_change (model, bucket, item_id) values (@model@, 0, null);
        return null;
    end if;
    if tg_op <> 'INSERT' then
        with changed as (select @old_keys@), item as (@items@)@lookup@
        insert into recsys.item_change (model, bucket, item_id)
        select @model@, recsys._item_bucket(item.item_id), item.item_id from item where item.item_id is not null;
    end if;
    if tg_op <> 'DELETE' then
        with changed as (select @new_keys@), item as (@items@)@lookup@
        insert into recsys.item_change (model, bucket, item_id)
        select @model@, recsys._item_bucket(item.item_id), item.item_id from item where item.item_id is not null;
    end if;
    return null;
exception when others then
    begin
        perform pg_catalog.nextval('recsys.capture_failure');
    exception when others then
        null;  -- not even the counter is there, or this role may not use it
    end;
    raise warning 'recsys could not queue a change of %: %', tg_table_name, sqlerrm
        using hint = 'The next worker queues every item of the model again.';
    return null;
end
$capture$;

create or replace trigger @trigger@_insert after insert on @table@
    for each row execute function recsys.@function@();
create or replace trigger @trigger@_delete after delete on @table@
    for each row execute function recsys.@function@();
create or replace trigger @trigger@_update after update on @table@
    for each row when ((@old_compared@) is distinct from (@new_compared@)) execute function recsys.@function@();
create or replace trigger @trigger@_truncate after truncate on @table@
    for each statement execute function recsys.@function@();
