-- recsys._candidates: the candidates of a request that asks for more than the nearest items
--
--   p_suffix     version, as model_number
--   p_query      query vector
--   p_exclude    items left out; pinned ones among them all the same, unless they are in p_never
--   p_count      eligible items wanted
--   p_ef         candidates at which the index reaches its recall at 20 places; null: always the exact scan
--   p_first      candidates to begin with; a guess that costs or saves time, no answer depends on it
--   p_whole      the filter may have to be evaluated whole for every look at it: ask the planner first
--   p_filter     SQL of the eligible item ids, or null; composed by the client with literals only, as the other
--                queries. They may end in a line comment, and run with the caller's privileges
--   p_min_score  least score of an eligible item
--   p_named      candidates whatever their rank
--   p_pinned     candidates whatever their rank and score
--   p_never      items that are not even pinned
--   p_buried     items that do not count towards p_count and p_places
--   p_keys       SQL of item id and key, or null
--   p_at_most    items that a key may have on the page
--   p_places     places of the page, to be filled with p_at_most for each key
--   p_amounts    SQL of item id and amount, or null
--   p_times      SQL of item id and time, or null
--   p_vectors    whether the item vectors are wanted
--   -> item_ids, scores       nearest first, then the named and pinned ones that are not among them
--   -> key_ids, keys          keys of these items
--   -> amount_ids, amounts    sums of the amounts
--   -> time_ids, times        newest times, as seconds since 1970
--   -> vectors                of the items in their order, one after the other
--   -> at                     now, as seconds since 1970
--   -> stage     'index' or 'exact': what the nearest items come from
--   -> scanned   candidates that the index gave, at last
--   -> needed    what p_first should have been, null where the index was no use
--
-- The nearest items are taken from the index alone, batch after batch of one scan, and each batch is asked of the
-- filter by its ids: no estimate of the planner can turn that into a sort of the catalogue. The application's queries
-- run on their own, so that none is joined with what the planner knows nothing about. What share of them passes tells
-- how many more to read, and whether the exact scan, at the planner's cost, is cheaper than that.
--
-- Where the index is over less than the whole vectors (spec -> 'ordering', see recsys._index_key), its order is
-- provisional: more candidates are read than are wanted, as many more as the calibration found for 20 places, and what
-- counts of each is its score by the whole vector.
--
-- The scan begins with p_ef candidates and goes on in steps of as many. That it goes on finds what the first step
-- missed: deep lists have the recall of short ones.
--
-- The SET clauses make the settings end with the function, inside any transaction and behind any pooler. Compiling
-- one statement of a few milliseconds would take a hundred.
--
-- Differs from v1: the order of the index is the version's own.
--
-- tests: tests/db/test_candidates.py, tests/db/test_short_index.py, tests/plans/

create or replace function recsys._candidates(
    p_suffix    text,
    p_query     halfvec,
    p_exclude   anyarray,
    p_named     anyarray,
    p_pinned    anyarray,
    p_never     anyarray,
    p_buried    anyarray,
    p_count     integer,
    p_ef        integer,
    p_first     integer default null,
    p_whole     boolean default false,
    p_filter    text default null,
    p_min_score real default null,
    p_keys      text default null,
    p_at_most   integer default null,
    p_places    integer default 0,
    p_amounts   text default null,
    p_times     text default null,
    p_vectors   boolean default false
)
returns table (
    item_ids anyarray, scores real[], key_ids anyarray, keys text[], amount_ids anyarray, amounts float8[],
    time_ids anyarray, times float8[], vectors bytea, at float8, stage text, scanned integer, needed integer
)
language plpgsql stable
set hnsw.iterative_scan = 'relaxed_order'
set hnsw.max_scan_tuples = 1000000
set hnsw.scan_mem_multiplier = 16
set hnsw.ef_search = 100
set enable_seqscan = on
set enable_sort = on
set jit = off
-- Our own statements have one good plan; the application's are planned anew each time.
set plan_cache_mode = force_generic_plan
as $function$
declare
    -- Beyond, what the index still finds costs more memory than an exact scan costs time.
    most      constant integer := 20000;
    -- Of the planner's cost, for one candidate: measured, see docs/filters.md.
    each      constant float8 := 6.0;
    excluded  constant p_exclude%type := coalesce(array_remove(p_exclude, null), '{}');
    never     constant p_exclude%type := coalesce(array_remove(p_never, null), '{}');
    buried    constant p_exclude%type := coalesce(array_remove(p_buried, null), '{}');
    pinned    constant p_exclude%type := coalesce(array_remove(p_pinned, null), '{}');
    -- They take no turn of their key, for where they end up is not known here; a pinned item takes the first.
    free      constant p_exclude%type := array(select unnest(buried || coalesce(p_named, '{}'))
                                               except all select unnest(pinned));
    least_score constant real := coalesce(p_min_score, '-infinity');
    collated  constant text := case when pg_typeof(p_exclude) = 'text[]'::regtype then ' collate "C"' else '' end;
    -- The second look at the filter is never run; it makes a filter of two columns an error.
    passing   constant text := case when p_filter is not null then format(
        'select array_agg(f.item_id) from (%1$s
         ) as f(item_id) where f.item_id = any ($2) and (true or f.item_id in (%1$s
         ))', p_filter) end;
    keyed     constant text := format(
        'select array_agg(k.item_id), array_agg(k.key)
         from (select f.item_id, min(f.key::text%2$s) as key from (%1$s
               ) as f(item_id, key) where f.item_id = any ($1) group by f.item_id) as k', p_keys, ' collate "C"');
    eligible  constant text := 'v.item_id <> all ($2)'
        || case when p_min_score is null then '' else ' and (-(v.embedding <#> $1))::real >= $3' end
        || coalesce(' and v.item_id in (' || p_filter || E'\n)', '');
    exact     constant text := format(
        'select array_agg(s.item_id order by s.distance, s.item_id%2$s),
                array_agg((-s.distance)::real order by s.distance, s.item_id%2$s)
         from (select v.item_id, (v.embedding <#> $1) + 0 as distance
               from recsys.%1$I as v
               where %3$s
               order by 2, v.item_id%2$s
               limit $4) as s', 'item_vector_' || p_suffix, collated, eligible);
    -- The best of each key, in two lists: as many as an order can choose from, and what fills the page for sure.
    crowded   constant text := format(
        'select array_agg(s.item_id order by s.distance, s.item_id%2$s),
                array_agg((-s.distance)::real order by s.distance, s.item_id%2$s)
         from (select r.item_id, r.distance, r.key, r.turn,
                      count(*) filter (where r.key is null or r.turn <= $6) over near as of_many,
                      count(*) filter (where r.key is null or r.turn <= $7) over near as of_few
               from (select v.item_id, (v.embedding <#> $1) + 0 as distance, k.key,
                            row_number() over (partition by k.key, v.item_id = any ($5)
                                               order by v.embedding <#> $1, v.item_id%2$s) as turn
                     from recsys.item_vector_%1$I as v
                     left join (select f.item_id, min(f.key::text collate "C") as key from (%4$s
                                ) as f(item_id, key) group by f.item_id) as k on k.item_id = v.item_id
                     where %3$s) as r
               window near as (order by r.distance, r.item_id%2$s)) as s
         where (s.key is null or s.turn <= $6) and s.of_many <= $4 or (s.key is null or s.turn <= $7) and s.of_few <= $8',
        p_suffix, collated, eligible, p_keys);
    kept      constant text :=
        'select coalesce(array_agg(n.item_id order by n.score desc, n.item_id collate "C"), ''{}''),
                coalesce(array_agg(n.score order by n.score desc, n.item_id collate "C"), ''{}'')
         from (select k.item_id, k.score from unnest($1, $2) as k(item_id, score)
               union all
               select b.item_id, b.score from unnest($3, $4) as b(item_id, score)
               where b.item_id = any ($5) and b.score >= $6) as n';
    at_most   constant integer := coalesce(p_at_most, 0);
    extra_ids p_exclude%type := '{}';
    extra     real[] := '{}';
    walk      refcursor;
    one       record;
    batch_ids p_exclude%type;
    new_ids   p_exclude%type;
    new_keys  text[];
    rounds    integer := 0;
    batch     real[];
    ended     boolean;
    near_ids  p_exclude%type := '{}';
    near      real[] := '{}';
    pass      p_exclude%type;
    hits      integer;
    place     integer;
    filled    integer;
    missing   integer;
    wish      integer;
    deep      integer := p_count;
    ordering  jsonb;
    cost      float8;
    again     float8;
    share     integer;
begin
    if cardinality(p_named) > 0 or cardinality(p_pinned) > 0 then
        execute format(
            'select coalesce(array_agg(v.item_id), $6), coalesce(array_agg((-(v.embedding <#> $1))::real), ''{}'')
             from recsys.%I as v
             where v.item_id = any ($2 || $3)
               and (v.item_id = any ($3) and v.item_id <> all ($4)
                    or v.item_id = any ($2) and v.item_id <> all ($5) and (-(v.embedding <#> $1))::real >= $7)',
            'item_vector_' || p_suffix)
        into extra_ids, extra
        using p_query, coalesce(p_named, '{}'), coalesce(p_pinned, '{}'), never, excluded, extra_ids, least_score;
    end if;

    if p_filter is not null and cardinality(extra_ids) > 0 then
        execute passing into pass using p_query, extra_ids;
        select coalesce(array_agg(e.item_id), '{}'), coalesce(array_agg(e.score), '{}') into extra_ids, extra
        from unnest(extra_ids, extra) as e(item_id, score) where e.item_id = any (pass);
    end if;

    -- Eligible candidates to be seen before the best p_count of them are known.
    select v.spec -> 'ordering' into ordering from recsys.model_version as v
    where v.model = regexp_replace(p_suffix, '_[0-9]+$', '')
      and v.number = substring(p_suffix from '[0-9]+$')::integer;
    if ordering is not null then
        deep := least(most + 1, greatest(p_count, p_ef * greatest(1, p_count / 20.0) ^ 0.7));
    end if;

    scanned := 0;
    stage := 'index';
    wish := case when p_ef is null then most + 1
                 else greatest(coalesce(p_first, p_ef), (1.1 * deep)::integer) end;
    if wish > 6 * p_ef and wish <= most then
        cost := recsys._cost(exact, p_query, excluded, least_score, p_count);
        if wish * each > cost then
            wish := most + 1;
        end if;
    end if;
    if p_whole and wish <= most then
        cost := coalesce(cost, recsys._cost(exact, p_query, excluded, least_score, p_count));
        if cost < 2.5 * recsys._cost(passing, p_query, excluded, least_score, p_count) then
            wish := most + 1;
        end if;
    end if;
    if wish <= most then
        perform set_config('hnsw.ef_search', least(p_ef, 1000)::text, true);
        -- Planned with the index only; it can give the rows in their order, and nothing else can.
        perform set_config('enable_seqscan', 'off', true), set_config('enable_sort', 'off', true);
        -- A custom plan looks exclusions up in a hash table, a generic one goes through all of them for each candidate.
        perform set_config('plan_cache_mode', 'force_custom_plan', true);
        open walk no scroll for execute format(
            'select v.item_id, (-(v.embedding <#> $1))::real as score from recsys.item_vector_%I as v
             where v.item_id <> all ($2) order by %s %s %s limit %s', p_suffix,
            coalesce(ordering ->> 'item', 'v.embedding'), coalesce(ordering ->> 'operator', '<#>'),
            coalesce(ordering ->> 'query', '$1'), most + 1)
        using p_query, excluded;
        perform set_config('enable_seqscan', 'on', true), set_config('enable_sort', 'on', true),
                set_config('plan_cache_mode', 'force_generic_plan', true);
    end if;

    while wish <= most loop
        rounds := rounds + 1;
        batch_ids := '{}';
        batch := '{}';
        for i in scanned + 1 .. wish loop
            fetch walk into one;
            exit when not found;
            batch_ids := batch_ids || one.item_id;
            batch := batch || one.score;
        end loop;
        ended := cardinality(batch) < wish - scanned;
        scanned := scanned + cardinality(batch);
        pass := batch_ids;
        if p_filter is not null then
            execute passing into pass using p_query, batch_ids;
        end if;
        -- The index hands its rows out in no strict order.
        if collated = '' then
            select coalesce(array_agg(n.item_id order by n.score desc, n.item_id), '{}'),
                   coalesce(array_agg(n.score order by n.score desc, n.item_id), '{}')
            into near_ids, near
            from (select k.item_id, k.score from unnest(near_ids, near) as k(item_id, score)
                  union all
                  select b.item_id, b.score from unnest(batch_ids, batch) as b(item_id, score)
                  where b.item_id = any (pass) and b.score >= least_score) as n;
        else
            execute kept into near_ids, near using near_ids, near, batch_ids, batch, pass, least_score;
        end if;
        if p_keys is not null then
            execute keyed into new_ids, new_keys
            using case when key_ids is null then extra_ids || coalesce(pass, '{}') else coalesce(pass, '{}') end;
            key_ids := coalesce(key_ids, '{}') || coalesce(new_ids, '{}');
            keys := coalesce(keys, '{}') || coalesce(new_keys, '{}');
        end if;
        select array_agg(c.item_id order by c.place), array_agg(c.score order by c.place),
               count(*) filter (where c.counts),
               (array_agg(c.place order by c.place) filter (where c.counts))[p_count],
               (array_agg(c.place order by c.place) filter (where c.counts and not c.free and c.turn <= at_most))[p_places]
        into item_ids, scores, hits, place, filled
        from (select n.item_id, n.score, n.place,
                     n.place <= cardinality(near_ids) and n.item_id <> all (buried) as counts,
                     n.item_id = any (free) or n.item_id = any (pinned) as free,
                     case when k.key is null then 0
                          else row_number() over (partition by k.key, n.item_id = any (free)
                                                  order by n.item_id <> all (pinned), n.place) end as turn
              from unnest(near_ids || extra_ids, near || extra) with ordinality as n(item_id, score, place)
              left join unnest(key_ids, keys) as k(item_id, key) on k.item_id = n.item_id
              where n.place <= cardinality(near_ids) or n.item_id <> all (near_ids)) as c;
        if hits >= deep and (p_keys is null or filled is not null) then
            needed := ceil(1.0 * scanned * greatest(place, filled) / cardinality(near_ids));
            if ordering is not null then
                needed := greatest(needed, ceil(1.0 * scanned * deep / hits));
            end if;
            exit;
        end if;
        -- All there is above the least score? A provisional order puts a few below it before others above.
        exit when p_min_score is not null and cardinality(batch) > 0
              and (select case when ordering is null then min(b.score) else max(b.score) end
                   from unnest(batch) as b(score)) < least_score;
        if ended then
            wish := most + 1;  -- the index has given up; whether more is there only the exact scan knows
            exit;
        end if;
        -- What is missing, if it goes on like this; a key's own share may yet grow thin. Nothing at all counts as
        -- half an item.
        missing := case when hits < deep then deep - hits else p_count end;
        wish := scanned + least(10.0 * scanned, greatest(p_ef / 4, 1.1 * scanned * missing / greatest(hits, 0.5)));
        if rounds > 1 then
            wish := greatest(wish, 2 * scanned);  -- few rounds, however the rest trickles in
        end if;
        if wish > 6 * p_ef then
            cost := coalesce(cost, recsys._cost(exact, p_query, excluded, least_score, p_count));
            again := recsys._cost(coalesce(passing, 'select'), p_query, batch_ids, least_score, p_count);
            if (wish - scanned) * each + again > cost then
                wish := most + 1;
            end if;
        end if;
    end loop;
    if walk is not null then
        close walk;
    end if;

    if wish > most then
        stage := 'exact';
        needed := null;
        wish := p_count + cardinality(buried);
        execute exact into near_ids, near using p_query, excluded, least_score, wish;
        near_ids := coalesce(near_ids, '{}');
        near := coalesce(near, '{}');
        if p_keys is not null then
            execute keyed into key_ids, keys using near_ids || extra_ids;
        end if;
        select array_agg(c.item_id order by c.place), array_agg(c.score order by c.place),
               count(*) filter (where c.counts),
               (array_agg(c.place order by c.place) filter (where c.counts))[p_count],
               (array_agg(c.place order by c.place) filter (where c.counts and not c.free and c.turn <= at_most))[p_places]
        into item_ids, scores, hits, place, filled
        from (select n.item_id, n.score, n.place,
                     n.place <= cardinality(near_ids) and n.item_id <> all (buried) as counts,
                     n.item_id = any (free) or n.item_id = any (pinned) as free,
                     case when k.key is null then 0
                          else row_number() over (partition by k.key, n.item_id = any (free)
                                                  order by n.item_id <> all (pinned), n.place) end as turn
              from unnest(near_ids || extra_ids, near || extra) with ordinality as n(item_id, score, place)
              left join unnest(key_ids, keys) as k(item_id, key) on k.item_id = n.item_id
              where n.place <= cardinality(near_ids) or n.item_id <> all (near_ids)) as c;
        if p_keys is not null and filled is null and cardinality(near_ids) = wish then
            -- So many of a key that an order of p_count candidates has something to choose from.
            share := p_at_most * greatest(1, ceil(p_count::float8 / p_places));
            execute crowded into near_ids, near using p_query, excluded, least_score, wish, free, share,
                at_most, p_places + cardinality(free);
            near_ids := coalesce(near_ids, '{}');
            near := coalesce(near, '{}');
            execute keyed into key_ids, keys using near_ids || extra_ids;
            select array_agg(c.item_id order by c.place), array_agg(c.score order by c.place),
                   count(*) filter (where c.counts),
                   (array_agg(c.place order by c.place) filter (where c.counts))[p_count],
                   (array_agg(c.place order by c.place) filter (where c.counts and not c.free and c.turn <= at_most))[p_places]
            into item_ids, scores, hits, place, filled
            from (select n.item_id, n.score, n.place,
                         n.place <= cardinality(near_ids) and n.item_id <> all (buried) as counts,
                         n.item_id = any (free) or n.item_id = any (pinned) as free,
                         case when k.key is null then 0
                              else row_number() over (partition by k.key, n.item_id = any (free)
                                                      order by n.item_id <> all (pinned), n.place) end as turn
                  from unnest(near_ids || extra_ids, near || extra) with ordinality as n(item_id, score, place)
                  left join unnest(key_ids, keys) as k(item_id, key) on k.item_id = n.item_id
                  where n.place <= cardinality(near_ids) or n.item_id <> all (near_ids)) as c;
        end if;
    end if;

    if p_amounts is not null then
        execute format(
            'select array_agg(s.item_id), array_agg(s.amount)
             from (select f.item_id, sum(f.amount::float8) as amount from (%s
                   ) as f(item_id, amount) where f.item_id = any ($1) group by f.item_id) as s', p_amounts)
        into amount_ids, amounts using item_ids;
    end if;
    if p_times is not null then
        execute format(
            'select array_agg(s.item_id), array_agg(extract(epoch from s.time)::float8)
             from (select f.item_id, max(f.time::timestamptz) as time from (%s
                   ) as f(item_id, time) where f.item_id = any ($1) group by f.item_id) as s', p_times)
        into time_ids, times using item_ids;
        at := extract(epoch from now());
    end if;
    if p_vectors then
        execute format(
            'select string_agg(halfvec_send(v.embedding), ''''::bytea order by n.place)
             from unnest($1) with ordinality as n(item_id, place)
             join recsys.%I as v on v.item_id = n.item_id', 'item_vector_' || p_suffix)
        into vectors using item_ids;
    end if;
    item_ids := coalesce(item_ids, '{}');
    scores := coalesce(scores, '{}');
    return next;
end
$function$;
