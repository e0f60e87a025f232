-- recsys.switch_log: every switch of every model, newest first

create view recsys.switch_log as
select p.model, p.from_number, p.number, p.kind, p.promoted_at, p.promoted_by, p.reason
from recsys.promotion as p
order by p.id desc;

comment on view recsys.switch_log is
    'Every switch: from which version, to which (null: serving stopped), when, by whom, why.';
