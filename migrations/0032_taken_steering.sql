-- migrate:up

-- A steering message that its run has read is no queued run, although its row stays until the run ends.
create or replace function check_limits(p_tenant text, p_user text) returns void language plpgsql as $$
declare
  queued_max bigint := limit_of(p_tenant, 'queued_max');
  user_queued_max bigint := limit_of(p_tenant, 'user_queued_max');
  tokens_max bigint := limit_of(p_tenant, 'tokens_per_day');
  today timestamp := statement_timestamp() at time zone 'utc';
begin
  if queued_max is not null and queued_max <= (
    select count(*) from (
      select from runs where tenant_id = p_tenant and state = 'queued' and not taken limit queued_max) queued)
  then
    perform refuse('RJ429', format('the tenant has too many runs queued: at most %s', queued_max), 5);
  elsif p_user is not null and user_queued_max is not null and user_queued_max <= (
    select count(*) from (
      select from runs where tenant_id = p_tenant and user_id = p_user and state = 'queued' and not taken
      limit user_queued_max) queued)
  then
    perform refuse('RJ429', format('you have too many runs queued: at most %s', user_queued_max), 5);
  elsif tokens_max is not null and tokens_max <= spent_today(p_tenant) then
    perform refuse(
      'RJ429', format('the tenant has used up its %s tokens of the day', tokens_max),
      ceil(extract(epoch from date_trunc('day', today) + interval '1 day' - today))::integer);
  end if;
end
$$;

-- migrate:down

create or replace function check_limits(p_tenant text, p_user text) returns void language plpgsql as $$
declare
  queued_max bigint := limit_of(p_tenant, 'queued_max');
  user_queued_max bigint := limit_of(p_tenant, 'user_queued_max');
  tokens_max bigint := limit_of(p_tenant, 'tokens_per_day');
  today timestamp := statement_timestamp() at time zone 'utc';
begin
  if queued_max is not null and queued_max <= (
    select count(*) from (
      select from runs where tenant_id = p_tenant and state = 'queued' limit queued_max) queued)
  then
    perform refuse('RJ429', format('the tenant has too many runs queued: at most %s', queued_max), 5);
  elsif p_user is not null and user_queued_max is not null and user_queued_max <= (
    select count(*) from (
      select from runs where tenant_id = p_tenant and user_id = p_user and state = 'queued'
      limit user_queued_max) queued)
  then
    perform refuse('RJ429', format('you have too many runs queued: at most %s', user_queued_max), 5);
  elsif tokens_max is not null and tokens_max <= spent_today(p_tenant) then
    perform refuse(
      'RJ429', format('the tenant has used up its %s tokens of the day', tokens_max),
      ceil(extract(epoch from date_trunc('day', today) + interval '1 day' - today))::integer);
  end if;
end
$$;
