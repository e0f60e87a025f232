-- recsys._make_partitions: the partitions of the coming days of recsys.impression and recsys.outcome
--
--   p_ahead    days from tomorrow on, 0..60; today is always included
--   -> number of partitions made
--
-- Idempotent; of two at once one does nothing. A partition is made as a table and attached: that takes only SHARE
-- UPDATE EXCLUSIVE on the parent, so requests go on writing. Rows of the day that fell in the default partition move
-- with it, up to 100,000; a day that has more stays in the default partition, where it is forgotten row by row. What
-- cannot be locked within half a second is left for the next run.
--
-- Runs as its owner, the owner of the tables: nobody else may attach to a partitioned table.
--
-- tests: tests/db/test_impression_tables.py

create function recsys._make_partitions(p_ahead integer default 3)
returns integer
language plpgsql security definer
set search_path from current
set lock_timeout = '500ms'
set timezone = 'UTC'
as $function$
declare
    today  date := now()::date;
    made   integer := 0;
    parent text;
    place  text;
    days   date;
    many   bigint;
begin
    if p_ahead not between 0 and 60 then
        raise exception 'days ahead must be between 0 and 60, got %', p_ahead
            using errcode = 'invalid_parameter_value';
    end if;
    if not pg_try_advisory_xact_lock(hashtextextended('recsys partitions', 0)) then
        return 0;
    end if;
    foreach parent in array array['impression', 'outcome'] loop
        for days in select today + n from generate_series(0, p_ahead) as n loop
            place := parent || '_' || to_char(days, 'YYYYMMDD');
            if to_regclass('recsys.' || place) is not null then
                continue;
            end if;
            begin
                -- Nobody may add a row of the day between the move and the attachment.
                execute format('lock table recsys.%I in access exclusive mode', parent || '_default');
                execute format(
                    'select count(*) from (select from recsys.%I where occurred_at >= %L and occurred_at < %L'
                    ' limit 100001) as s', parent || '_default', days::timestamptz, (days + 1)::timestamptz)
                into many;
                if many > 100000 then
                    continue;
                end if;
                execute format('create table recsys.%I (like recsys.%I including all)', place, parent);
                execute format(
                    'with moved as (delete from recsys.%I where occurred_at >= %L and occurred_at < %L returning *)'
                    ' insert into recsys.%I select * from moved',
                    parent || '_default', days::timestamptz, (days + 1)::timestamptz, place);
                execute format(
                    'alter table recsys.%I attach partition recsys.%I for values from (%L) to (%L)',
                    parent, place, days::timestamptz, (days + 1)::timestamptz);
                made := made + 1;
            exception
                when lock_not_available or deadlock_detected then
                    null;  -- the next run tries again; rows meanwhile go to the default partition
            end;
        end loop;
    end loop;
    return made;
end
$function$;

-- The first days, so that a process that logs before a worker runs writes to them.
select recsys._make_partitions();
