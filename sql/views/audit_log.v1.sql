-- recsys.audit_log: every transition of every model, newest first

create view recsys.audit_log as
select a.id, a.at, a.model, a.number, a.kind, a.before, a.after, a.reason, a.who, a.application, a.numbers
from recsys.audit as a
order by a.id desc;

comment on view recsys.audit_log is
    'Every transition: when, of what, from, to, why, by whom, and what was known of the version at that time.';
