-- Capture of one partitioned table for one model, by row: Postgres copies row triggers to every partition, also to
-- those that come later, while a statement trigger of the parent misses what is written to a partition directly.
-- A table that is a partition or a child itself is captured by row as well: statement triggers miss what comes to it
-- through its parent.
--
-- Old and new row are compared here and not in a condition of the trigger, which would keep the application from
-- changing the type of these columns and from dropping them. Everything else is as in statement.sql.

create or replace function recsys.@function@()
returns trigger
language plpgsql security definer
set search_path = @search_path@
set extra_float_digits = 1
set lock_timeout = '100ms'
as $capture$
declare
    moved boolean := false;
begin
    if pg_catalog.current_setting('recsys.capture_failed', true)
       = pg_catalog.pg_current_xact_id_if_assigned()::text then
        return null;
    end if;
    -- Not "exists ... enabled": a transaction with a snapshot from before 'recsys watch' does not see the row.
    if exists (select from recsys.capture as c where c.model = @model@ and not c.enabled) then
        return null;
    end if;
    if tg_op = 'TRUNCATE' then
        insert into recsys.item_change (model, bucket, item_id) values (@model@, 0, null);
        return null;
    end if;
    if tg_op = 'UPDATE' then
        moved := (@old_key_texts@) is distinct from (@new_key_texts@);
        if not moved and (@old_compared@) is not distinct from (@new_compared@) then
            return null;
        end if;
    end if;
    if tg_op = 'DELETE' or moved then
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
    for each row execute function recsys.@function@();
create or replace trigger @trigger@_delete after delete on @table@
    for each row execute function recsys.@function@();
create or replace trigger @trigger@_update after update on @table@
    for each row execute function recsys.@function@();
create or replace trigger @trigger@_truncate after truncate on @table@
    for each statement execute function recsys.@function@();
