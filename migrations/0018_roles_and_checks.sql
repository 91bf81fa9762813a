-- migrate:up

-- The decisions of approvals are the gateways': a runner asks, it cannot answer itself. A role can be kept from a
-- column by a grant (migrations/grants), from a value only by a trigger.
create function refuse_own_decision() returns trigger language plpgsql as $$
begin
  if current_user = 'rejoin_runner' and new.state in ('approved', 'denied') then
    raise insufficient_privilege using message = 'permission denied: a runner decides no approval';
  end if;
  return new;
end
$$;

create trigger own_decision before insert or update of state on approvals
  for each row when (new.state in ('approved', 'denied')) execute function refuse_own_decision();

-- Whether the database can store new rows: readiness asks. An update in place succeeds on a full disk, so this needs a new
-- file and a page in it. It writes nothing while another gateway asks or a backup reads the table.
create table write_checks (at timestamptz not null, filler text not null);
insert into write_checks values (clock_timestamp(), '');

create function check_writes() returns boolean
language plpgsql security definer set search_path = public, pg_temp set lock_timeout = '100ms' as $$
begin
  if pg_try_advisory_xact_lock(hashtextextended('rejoin write check', 0)) then
    truncate write_checks;
    insert into write_checks values (clock_timestamp(), repeat('x', 1000));
  end if;
  return true;
exception
  when lock_not_available then return true;
end
$$;

-- migrate:down

drop function check_writes;
drop table write_checks;

drop trigger own_decision on approvals;
drop function refuse_own_decision;
