-- recsys._numbers: what is known of a version now, for the audit
--
--   -> {"state", "item_count", "source_count", "ann_recall", "ef_search", "backlog", "metrics", "comparison"}

create function recsys._numbers(p_model text, p_number integer)
returns jsonb
language plpgsql stable
set search_path from current
as $function$
begin
    return (select jsonb_strip_nulls(jsonb_build_object(
        'state', v.state,
        'item_count', v.item_count,
        'source_count', v.source_count,
        'ann_recall', v.ann_recall,
        'ef_search', v.ef_search,
        'metrics', v.metrics -> 'validation' -> 'model',
        'backlog', (select count(*) from (select from recsys.item_change as c where c.model = p_model limit 10001) as c),
        'comparison', (select jsonb_build_object('id', c.id, 'base', c.base_number, 'passed', c.passed, 'verdict', c.verdict)
                       from recsys.comparison as c where c.model = p_model and c.number = p_number
                       order by c.id desc limit 1)
    ))
    from recsys.model_version as v where v.model = p_model and v.number = p_number);
end
$function$;
