-- recsys._audit: add one row to the audit
--
--   raises nothing of its own

create function recsys._audit(
    p_model text, p_number integer, p_kind text, p_before jsonb, p_after jsonb,
    p_reason text default '', p_numbers jsonb default '{}'
)
returns void
language sql
as $function$
    insert into recsys.audit (model, number, kind, before, after, reason, numbers)
    values (p_model, p_number, p_kind, p_before, p_after, coalesce(p_reason, ''), coalesce(p_numbers, '{}'))
$function$;
