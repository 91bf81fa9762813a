-- migrate:up

-- Who administers webhooks sees each delivery, learns of changes from the audit log, and metrics know what became of an
-- attempt.

create index webhook_deliveries_pages on webhook_deliveries (endpoint_id, number);

create function audit_webhook() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  e webhook_endpoints := coalesce(new, old);
begin
  perform record_audit(
    e.tenant_id,
    case
      when tg_op = 'INSERT' then 'webhook.added'
      when tg_op = 'DELETE' then 'webhook.removed'
      when old.secret is distinct from new.secret then 'webhook.rotated'
      when new.disabled_at is not null then 'webhook.disabled'
      else 'webhook.enabled'
    end,
    -- A URL's query may be a secret of the receiver.
    e.id, json_build_object('url', left(split_part(e.url, '?', 1), 300), 'events', e.events));
  return null;
end
$$;

create trigger audit after insert or delete on webhook_endpoints for each row execute function audit_webhook();
create trigger audit_change after update on webhook_endpoints for each row
  when ((old.secret, old.disabled_at is null) is distinct from (new.secret, new.disabled_at is null))
  execute function audit_webhook();

-- `settle_webhook`, and the state that the delivery has now; null if nothing was stored.
create function settle_delivery(
  p_number bigint, p_attempt integer, p_error text, p_retry_s double precision, p_gone boolean
) returns text language plpgsql as $$
begin
  perform from webhook_deliveries
  where number = p_number and state = 'pending' and (attempts = p_attempt or p_error is null) for update;
  if not found then
    return null;
  end if;
  perform settle_webhook(p_number, p_attempt, p_error, p_retry_s, p_gone);
  return (select state from webhook_deliveries where number = p_number);
end
$$;

-- migrate:down

drop function settle_delivery(bigint, integer, text, double precision, boolean);
drop trigger audit_change on webhook_endpoints;
drop trigger audit on webhook_endpoints;
drop function audit_webhook;
drop index webhook_deliveries_pages;
