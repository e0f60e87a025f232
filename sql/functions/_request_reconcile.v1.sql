-- recsys._request_reconcile: have every item queued again, once no transaction that may have slipped past capture runs

create function recsys._request_reconcile(p_model text, p_reason text)
returns void
language plpgsql
set search_path from current
as $function$
begin
    insert into recsys.capture as c (model, reconcile_after, reason)
    values (p_model, pg_current_xact_id(), p_reason)
    on conflict (model) do update
        set reconcile_after = excluded.reconcile_after, reconcile_seen = false, reason = excluded.reason;
    perform recsys._audit(p_model, null, 'capture', null, null, p_reason);
end
$function$;
