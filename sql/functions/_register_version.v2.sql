-- recsys._register_version: enter a model version as building
--
--   p_artifacts  name -> sha256; each must be in recsys.artifact
--   -> nothing; registering the same version with the same artifacts again changes nothing
--   raises 22023 when id types or artifacts differ from what is registered, 23503 when an artifact is missing
--
-- tests: tests/db/test_versions.py, tests/migrations/test_model_revisions.py

create or replace function recsys._register_version(
    p_model     text,
    p_number    integer,
    p_item_type text,
    p_user_type text,
    p_dim       integer,
    p_spec      jsonb,
    p_artifacts jsonb,
    p_metrics   jsonb
)
returns void
language plpgsql
set search_path from current
as $function$
declare
    registered recsys.model;
    existing   recsys.model_version;
    absent     text;
begin
    insert into recsys.model (name, item_type, user_type)
    values (p_model, p_item_type, p_user_type)
    on conflict (name) do nothing;
    select * into registered from recsys.model where name = p_model for update;
    if (registered.item_type, registered.user_type) is distinct from (p_item_type, p_user_type) then
        raise exception 'model % is registered with item ids % and user ids %, not % and %',
            p_model, registered.item_type, registered.user_type, p_item_type, p_user_type
            using errcode = 'invalid_parameter_value',
                  hint = 'Use the registered types, or another model name.';
    end if;

    select * into existing from recsys.model_version where model = p_model and number = p_number;
    if found then
        if existing.artifacts is distinct from p_artifacts or existing.dim <> p_dim then
            raise exception 'version % of model % is already registered with other artifacts',
                p_number, p_model
                using errcode = 'invalid_parameter_value',
                      hint = 'Train again: a version number is never used twice.';
        end if;
        return;
    end if;

    select string_agg(wanted.key, ', ') into absent
    from jsonb_each_text(p_artifacts) as wanted
    where not exists (select from recsys.artifact as a where a.sha256 = wanted.value);
    if absent is not null then
        raise exception 'the artifacts of % version % are not in this database: %',
            p_model, p_number, absent
            using errcode = 'foreign_key_violation',
                  hint = 'Bring them with ''recsys artifacts export'' there and ''recsys artifacts import'' here.';
    end if;

    insert into recsys.model_version (model, number, dim, spec, artifacts, metrics, trained_until)
    values (p_model, p_number, p_dim, p_spec, p_artifacts, p_metrics, (p_spec ->> 'trained_until')::timestamptz);
    update recsys.model set last_number = greatest(last_number, p_number) where name = p_model;
end
$function$;
