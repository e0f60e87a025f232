-- recsys._grant_part_learning: privileges on what training and its updates made
--
-- tests: tests/db/test_privileges.py

create function recsys._grant_part_learning()
returns void
language plpgsql
set search_path from current
as $function$
begin
    if to_regrole('recsys_app') is not null then
        grant select on recsys.item_trend to recsys_app;
    end if;
    if to_regrole('recsys_analyst') is not null then
        grant select on recsys.update_log to recsys_analyst;
    end if;
    if to_regrole('recsys_trainer') is not null then
        grant select, insert, update, delete on recsys.id_update, recsys.id_update_row, recsys.id_update_seen,
            recsys.item_trend to recsys_trainer;
        grant select on recsys.update_log to recsys_trainer;
        grant select, insert, delete on recsys.text_embedding to recsys_trainer;
        revoke update, trigger, truncate, references on recsys.text_embedding from recsys_trainer;
        revoke trigger, truncate, references on recsys.id_update, recsys.id_update_row, recsys.id_update_seen,
            recsys.item_trend from recsys_trainer;
    end if;
end
$function$;
