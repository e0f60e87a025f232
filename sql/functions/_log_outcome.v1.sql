-- recsys._log_outcome: store what a user did, unless somebody holds the table
--
--   p_occurred_at  null: now, by this server's clock, as in recsys._log_answers
--   -> false       not stored: a lock was not to be had for 200 ms
--
-- record() calls it in the transaction of the interaction, which must neither wait for whoever alters the table nor be
-- lost with the outcome.
--
-- tests: tests/db/test_logged_answers.py

create function recsys._log_outcome(
    p_request_id uuid, p_model text, p_user_id text, p_item_id text, p_kind text, p_value numeric,
    p_occurred_at timestamptz)
returns boolean
language plpgsql
set search_path from current
set lock_timeout = '200ms'
as $function$
begin
    insert into recsys.outcome (request_id, model, user_id, item_id, kind, value, occurred_at)
    values (p_request_id, p_model, p_user_id, p_item_id, p_kind, p_value, coalesce(p_occurred_at, clock_timestamp()));
    return true;
exception
    when lock_not_available then
        return false;
end
$function$;
