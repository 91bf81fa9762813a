-- migrate:up

-- The client tools that a request has brought for its run, as JSON. They are gone when the run has ended.
alter table runs add column request_tools json;

-- `with_operation_set`, and the tools of the new run. p_tools: null for none.
create function with_request_tools(p_admitted json, p_operation_set text, p_tools json) returns json
language plpgsql as $$
begin
  if p_tools is not null and (p_admitted ->> 'created')::boolean then
    update runs set request_tools = p_tools where id = p_admitted -> 'run' ->> 'id';
  end if;
  return with_operation_set(p_admitted, p_operation_set);
end
$$;

-- `claim_steered`, and the tools of the run's request.
create function claim_with_tools(
  p_run text, p_turn integer, p_runner text, p_messages_max bigint, p_bytes_max bigint, p_inline_max bigint
) returns json language plpgsql as $$
declare
  claimed json := claim_steered(p_run, p_turn, p_runner, p_messages_max, p_bytes_max, p_inline_max);
begin
  return case when claimed is not null then json_build_array(claimed, (
    select coalesce(request_tools, '[]') from runs where id = p_run)) end;
end
$$;

create function drop_request_tools() returns trigger language plpgsql as $$
begin
  new.request_tools := null;
  return new;
end
$$;

create trigger request_tools before update of ended_at on runs for each row
  when (new.ended_at is not null and new.request_tools is not null)
  execute function drop_request_tools();

-- migrate:down

drop trigger request_tools on runs;
drop function drop_request_tools, claim_with_tools, with_request_tools;
alter table runs drop column request_tools;
