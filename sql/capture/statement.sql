-- Capture of one table for one model, by statement: the trigger function and its triggers.
--
-- Only keys are queued, and only when a column that the item source reads changed: what an UPDATE changed are the
-- rows that differ between the transition tables, whichever way it wrote them. Errors are swallowed, because the
-- application must not feel them; the sequence counts them, outside any transaction, and the workers then queue
-- every item: the rest of the transaction need not try, which spares it the lock timeout every time. That timeout
-- keeps a VACUUM FULL of the queue from stopping the application.
--
-- Names are written in full: a function or operator of another schema of the path would otherwise win wherever its
-- argument types fit better, and would run with the owner's rights. Whoever made the function can change it, so it
-- must be somebody who may put triggers on the table anyway: a trainer could have made it before, under its name.

create or replace function recsys.@function@()
returns trigger
language plpgsql security definer
set search_path = @search_path@
set extra_float_digits = 1
set lock_timeout = '100ms'
as $capture$
begin
    if pg_catalog.current_setting('recsys.capture_failed', true)
       = pg_catalog.pg_current_xact_id_if_assigned()::text then
        return null;
    end if;
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
        perform pg_catalog.set_config('recsys.capture_failed', pg_catalog.pg_current_xact_id()::text, true);
    exception when others then
        null;  -- not even the counter is there, or this role may not use it
    end;
    raise warning 'recsys could not queue a change of %: %', tg_table_name, sqlerrm
        using hint = 'The next worker queues every item of the model again.';
    return null;
end
$capture$;

do $owner$
begin
    if exists (
        select from pg_catalog.pg_proc as p
        where p.pronamespace = 'recsys'::pg_catalog.regnamespace and p.proname = @function_name@
          and not pg_catalog.has_table_privilege(p.proowner, @table_name@, 'trigger')
    ) then
        raise exception 'somebody who may put no triggers on % made recsys.%', @table_name@, @function_name@
            using errcode = 'insufficient_privilege',
            hint = 'As its owner or a superuser: drop function recsys.@function@() cascade; then watch again.';
    end if;
end
$owner$;

create or replace trigger @trigger@_insert after insert on @table@
    referencing new table as recsys_new for each statement execute function recsys.@function@();
create or replace trigger @trigger@_delete after delete on @table@
    referencing old table as recsys_old for each statement execute function recsys.@function@();
create or replace trigger @trigger@_update after update on @table@
    referencing old table as recsys_old new table as recsys_new for each statement execute function recsys.@function@();
create or replace trigger @trigger@_truncate after truncate on @table@
    for each statement execute function recsys.@function@();
