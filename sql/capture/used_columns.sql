-- The tables that the view recsys_source reads, through other views, and the columns of each with their types.
--
-- A whole row, such as to_jsonb(product), leaves no trace of its columns in pg_depend, but shows as product.* in the
-- printed view, where * never stands for a column list. A virtual generated column is null in the rows that a trigger
-- sees: the columns that it is made of stand for it.

with recursive reads as (
    select 'recsys_source'::regclass::oid as view, 0::oid as relation, null::smallint as attnum, false as whole
    union
    select d.refobjid, d.refobjid, d.refobjsubid::smallint, pg_get_viewdef(r.ev_class) ~ '\.\*'
    from reads
    join pg_catalog.pg_rewrite as r on r.ev_class = reads.view
    join pg_catalog.pg_depend as d
        on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
        and d.refclassid = 'pg_class'::regclass and d.refobjid <> r.ev_class
)
select distinct format('%I.%I', n.nspname, c.relname), b.attname,
    format_type(coalesce(nullif(t.typbasetype, 0), t.oid), null)
from reads
join pg_catalog.pg_class as c on c.oid = reads.relation and c.relkind in ('r', 'p', 'f', 'm')
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
left join pg_catalog.pg_attribute as a
    on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and (reads.whole or a.attnum = reads.attnum)
left join lateral (
    select a.attname, a.atttypid where a.attgenerated <> 'v'
    union all
    select base.attname, base.atttypid
    from pg_catalog.pg_attrdef as e
    join pg_catalog.pg_depend as d
        on d.classid = 'pg_attrdef'::regclass and d.objid = e.oid and d.deptype = 'n'
        and d.refclassid = 'pg_class'::regclass and d.refobjid = c.oid
    join pg_catalog.pg_attribute as base on base.attrelid = c.oid and base.attnum = d.refobjsubid
    where a.attgenerated = 'v' and e.adrelid = c.oid and e.adnum = a.attnum
) as b on true
left join pg_catalog.pg_type as t on t.oid = b.atttypid
order by 1, 2
