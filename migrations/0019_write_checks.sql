-- migrate:up

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
