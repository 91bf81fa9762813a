-- migrate:up

-- Functions of earlier migrations have got other names before the first release. A database from before would fail later.
do $$
begin
  if to_regprocedure('lock_attempt(text, integer)') is null then
    perform refuse('RJ409', 'an earlier development version has made this database: create it anew');
  end if;
end
$$;

-- At most 10,000 deliveries of runs wait for one endpoint (ports.webhooks.PENDING_MAX): each claim looks through those of
-- a session. Further ones have failed at once, so that a replay sends them.

create function bound_webhooks() returns trigger language plpgsql as $$
begin
  if new.run_id is not null and exists (
    select from webhook_deliveries where endpoint_id = new.endpoint_id and state = 'pending' offset 9999)
  then
    new.state := 'failed';
    new.error := '10000 earlier deliveries wait';
    new.done_at := clock_timestamp();
  end if;
  return new;
end
$$;

create trigger bound before insert on webhook_deliveries for each row execute function bound_webhooks();

-- migrate:down

drop trigger bound on webhook_deliveries;
drop function bound_webhooks();
