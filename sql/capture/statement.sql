-- Capture of one table for one model, by statement: the trigger function and its triggers.
--
-- Only keys are queued, and only when a column that the item source reads changed: what an UPDATE changed are the
-- rows that differ between the transition tables, whichever way it wrote them. Errors are swallowed, because the
-- application must not feel them; the sequence counts them, outside any transaction, and the workers then queue
-- every item. The lock timeout keeps a VACUUM FULL of the queue from stopping the application.

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
    if tg_op = 'INSERT' then
        with changed as (select @keys@ from recsys_new), item as (@items@)@lookup@
        insert into recsys.item_change (model, bucket, item_id)
        select @model@, recsys._item_bucket(item.item_id), item.item_id from item where item.item_id is not null;
    elsif tg_op = 'DELETE' then
        with changed as (select @keys@ from recsys_old), item as (@items@)@lookup@
        insert into recsys.item_change (model, bucket, item_id)
        select @model@, recsys._item_bucket(item.item_id), item.item_id from item where item.item_id is not null;
    elsif tg_op = 'UPDATE' then
        with changed as (
            select @keys@ from (select @compared@ from recsys_old except all select @compared@ from recsys_new) as o
            union
            select @keys@ from (select @compared@ from recsys_new except all select @compared@ from recsys_old) as n
        ), item as (@items@)@lookup@
        insert into recsys.item_change (model, bucket, item_id)
        select @model@, recsys._item_bucket(item.item_id), item.item_id from item where item.item_id is not null;
    else
        insert into recsys.item_change (model, bucket, item_id) values (@model@, 0, null);
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
    referencing new table as recsys_new for each statement execute function recsys.@function@();
create or replace trigger @trigger@_delete after delete on @table@
    referencing old table as recsys_old for each statement execute function recsys.@function@();
create or replace trigger @trigger@_update after update on @table@
    referencing old table as recsys_old new table as recsys_new for each statement execute function recsys.@function@();
create or replace trigger @trigger@_truncate after truncate on @table@
    for each statement execute function recsys.@function@();
