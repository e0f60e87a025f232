-- recsys._rollout: who serves what, as {"1": 90, "2": 10}; {} when nothing serves

create function recsys._rollout(p_model text)
returns jsonb
language sql stable
as $function$
    select coalesce(jsonb_object_agg(r.number::text, trim_scale(r.percent)), '{}')
    from recsys.rollout as r where r.model = p_model
$function$;
