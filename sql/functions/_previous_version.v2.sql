-- recsys._previous_version: the version that served before the given one and could serve again
--
--   -> number, null when there is none
--
-- Goes back along the promotions: from the last one that brought p_number to the version it replaced, and on
-- from there until one is ready. Rollbacks and hand-overs are no promotions, so that going back twice goes back
-- two steps. Versions that never served do not count: nobody has seen them answer. A time when nothing served is
-- stepped over.
--
-- tests: tests/db/test_versions.py

create or replace function recsys._previous_version(p_model text, p_number integer)
returns integer
language plpgsql stable
set search_path from current
as $function$
declare
    candidate integer := p_number;
    step      record;
    last_id   bigint := 9223372036854775807;
begin
    loop
        select p.id, p.from_number into step
        from recsys.promotion as p
        where p.model = p_model and p.number = candidate and p.kind = 'promote' and p.id < last_id
        order by p.id desc
        limit 1;
        if not found then
            return null;
        end if;
        if step.from_number is null then
            select p.number into step.from_number
            from recsys.promotion as p
            where p.model = p_model and p.number is not null and p.id < step.id
            order by p.id desc
            limit 1;
            if step.from_number is null then
                return null;
            end if;
        end if;
        candidate := step.from_number;
        last_id := step.id;
        if candidate <> p_number and exists (
            select from recsys.model_version as v
            where v.model = p_model and v.number = candidate and v.state = 'ready'
        ) then
            return candidate;
        end if;
    end loop;
end
$function$;
