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
-- The nearest items are taken from the index alone, and only then is the filter asked about them, by their ids: no
-- estimate of the planner can turn that into a sort of the catalogue. The application's queries run on their own,
-- so that none is joined with what the planner knows nothing about. What share of them passes tells how deep the
-- index must be read, and whether the exact scan, at the planner's cost, is cheaper than that.
--
-- A list d places deep needs about p_ef * sqrt(d / 20) candidates for the recall that p_ef has at 20 places, and
-- never fewer than a few more than d.
--
-- The SET clauses make the settings end with the function, inside any transaction and behind any pooler. Compiling
-- one statement of a few milliseconds would take a hundred.
--
-- tests: tests/db/test_candidates.py, tests/plans/

create function recsys._candidates(
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
set jit = off
as $function$
declare
    -- Beyond, what the index still finds costs more memory than an exact scan costs time.
    most      constant integer := 20000;
    -- Of the planner's cost, for one candidate: measured, see docs/filters.md.
    each      constant float8 := 6.0;
    excluded  constant p_exclude%type := coalesce(array_remove(p_exclude, null), '{}');
    never     constant p_exclude%type := coalesce(array_remove(p_never, null), '{}');
    buried    constant p_exclude%type := coalesce(array_remove(p_buried, null), '{}');
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
    crowded   constant text := format(
        'select array_agg(s.item_id order by s.distance, s.item_id%2$s),
                array_agg((-s.distance)::real order by s.distance, s.item_id%2$s)
         from (select r.item_id, r.distance
               from (select v.item_id, (v.embedding <#> $1) + 0 as distance, k.key,
                            row_number() over (partition by k.key, v.item_id = any ($5)
                                               order by v.embedding <#> $1, v.item_id%2$s) as turn
                     from recsys.%1$I as v
                     left join (select f.item_id, min(f.key::text collate "C") as key from (%4$s
                                ) as f(item_id, key) group by f.item_id) as k on k.item_id = v.item_id
                     where %3$s) as r
               where r.key is null or r.turn <= $6
               order by 2, r.item_id%2$s
               limit $4) as s', 'item_vector_' || p_suffix, collated, eligible, p_keys);
    looked    constant text :=
        'select array_agg(c.item_id order by c.place), array_agg(c.score order by c.place),
                count(*) filter (where c.counts),
                (array_agg(c.place order by c.place) filter (where c.counts))[$8],
                (array_agg(c.place order by c.place) filter (where c.counts and c.turn <= $9))[$10]
         from (select n.item_id, n.score, n.place, n.place <= $3 and n.item_id <> all ($7) as counts,
                      case when k.key is null then 0
                           else row_number() over (partition by k.key, n.item_id = any ($7), n.place > $3
                                                   order by n.place) end as turn
               from unnest($1, $2) with ordinality as n(item_id, score, place)
               left join unnest($5, $6) as k(item_id, key) on k.item_id = n.item_id
               where (n.place > $3 or n.score >= $11) and ($4 is null or n.item_id = any ($4))
                 and (n.place <= $3 or n.item_id <> all ($1[:$3]))) as c';
    nothing   constant p_exclude%type := null;
    extra_ids p_exclude%type := '{}';
    extra     real[] := '{}';
    near_ids  p_exclude%type;
    near      real[];
    pass      p_exclude%type;
    hits      integer;
    place     integer;
    filled    integer;
    depth     integer;
    wish      integer;
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

    scanned := 0;
    stage := 'index';
    if p_ef is null then
        wish := most + 1;
    else
        wish := greatest(p_ef, p_first, (p_ef * sqrt(p_count / 20.0))::integer, (1.25 * p_count)::integer);
    end if;
    if p_whole and wish <= most then
        cost := recsys._cost(exact, p_query, excluded, least_score, p_count);
        if cost < 2.5 * recsys._cost(passing, p_query, excluded, least_score, p_count) then
            wish := most + 1;
        end if;
    end if;

    while wish <= most loop
        scanned := wish;
        execute format('select s.item_ids, s.scores from recsys.%I($1, $2, $3, $4) as s', '_search_' || p_suffix)
        into near_ids, near using p_query, scanned, excluded, least(1000, scanned);
        pass := null;
        if p_filter is not null then
            execute passing into pass using p_query, near_ids || extra_ids;
            pass := coalesce(pass, '{}');
        end if;
        if p_keys is not null then
            execute keyed into key_ids, keys using coalesce(pass, near_ids || extra_ids);
        end if;
        execute looked into item_ids, scores, hits, place, filled
        using near_ids || extra_ids, near || extra, cardinality(near_ids), pass, key_ids, keys, buried,
              p_count, coalesce(p_at_most, 0), p_places, least_score;
        depth := case when p_keys is null then place when place is not null and filled is not null
                      then greatest(place, filled) end;
        -- All there is, or all there is above the least score?
        exit when cardinality(near_ids) < scanned or near[cardinality(near)] < least_score;
        if depth is not null then
            wish := greatest(p_ef, (p_ef * sqrt(depth / 20.0))::integer, (1.25 * depth)::integer);
            needed := wish;
            exit when wish <= 1.1 * scanned;
            wish := 1.1 * wish;
        else
            -- Where enough would stand if it went on like this. Nothing at all counts as half an item.
            depth := least(most, 1.0 * scanned * p_count / greatest(hits, 0.5));
            -- Another key is the rarer the more of them stand already.
            wish := greatest(case when p_keys is null then 2 else 4 end * scanned, 1.15 * p_ef * sqrt(depth / 20.0), 1.4 * depth);
        end if;
        if wish > 6 * p_ef then
            cost := coalesce(cost, recsys._cost(exact, p_query, excluded, least_score, p_count));
            again := recsys._cost(coalesce(passing, 'select'), p_query, near_ids, least_score, p_count);
            if wish * each + again > cost then
                wish := most + 1;
            elsif hits = 0 then
                wish := least(wish, 10 * scanned);
            end if;
        end if;
    end loop;

    if wish > most then
        stage := 'exact';
        needed := null;
        if p_filter is not null and cardinality(extra_ids) > 0 then
            execute passing into pass using p_query, extra_ids;
            select coalesce(array_agg(e.item_id), '{}'), coalesce(array_agg(e.score), '{}') into extra_ids, extra
            from unnest(extra_ids, extra) as e(item_id, score) where e.item_id = any (pass);
        end if;
        wish := p_count + cardinality(buried);
        execute exact into near_ids, near using p_query, excluded, least_score, wish;
        near_ids := coalesce(near_ids, '{}');
        near := coalesce(near, '{}');
        if p_keys is not null then
            execute keyed into key_ids, keys using near_ids || extra_ids;
        end if;
        execute looked into item_ids, scores, hits, place, filled
        using near_ids || extra_ids, near || extra, cardinality(near_ids), nothing, key_ids, keys, buried,
              p_count, coalesce(p_at_most, 0), p_places, least_score;
        if p_keys is not null and filled is null and cardinality(near_ids) = wish then
            -- So many of a key that an order of p_count candidates has something to choose from.
            share := p_at_most * greatest(1, ceil(p_count::float8 / p_places));
            execute crowded into near_ids, near using p_query, excluded, least_score, wish, buried, share;
            near_ids := coalesce(near_ids, '{}');
            near := coalesce(near, '{}');
            execute keyed into key_ids, keys using near_ids || extra_ids;
            execute looked into item_ids, scores, hits, place, filled
            using near_ids || extra_ids, near || extra, cardinality(near_ids), nothing, key_ids, keys, buried,
                  p_count, p_at_most, p_places, least_score;
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
