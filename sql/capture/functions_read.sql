-- The functions that the view recsys_source calls, itself or through other views, and that may read tables.
--
-- Those of extensions and immutable ones are left out; those of Postgres itself leave no trace in pg_depend.

with recursive reads as (
    select 'recsys_source'::regclass::oid as view
    union
    select d.refobjid
    from reads
    join pg_catalog.pg_rewrite as r on r.ev_class = reads.view
    join pg_catalog.pg_depend as d
        on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
        and d.refclassid = 'pg_class'::regclass and d.refobjid <> r.ev_class
)
select distinct p.oid::regproc::text
from reads
join pg_catalog.pg_rewrite as r on r.ev_class = reads.view
join pg_catalog.pg_depend as d
    on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid and d.refclassid = 'pg_proc'::regclass
join pg_catalog.pg_proc as p on p.oid = d.refobjid and p.provolatile <> 'i'
where not exists (select from pg_catalog.pg_depend as e where e.objid = p.oid and e.deptype = 'e')
order by 1
