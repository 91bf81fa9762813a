-- migrate:up

-- What a request sets for its run alone, besides tools: instructions, sampling, the form of the answer, as
-- JSON. It is gone when the run has ended.
alter table runs add column request_options json;

-- `with_operation_set`, and the tools and the options of the new run. Each is null for none.
create function with_request_options(
  p_admitted json, p_operation_set text, p_tools json, p_options json
) returns json
language plpgsql as $$
begin
  if (p_tools is not null or p_options is not null) and (p_admitted ->> 'created')::boolean then
    update runs set request_tools = p_tools, request_options = p_options
    where id = p_admitted -> 'run' ->> 'id';
  end if;
  return with_operation_set(p_admitted, p_operation_set);
end
$$;

-- `claim_with_tools`, and the options of the run's request.
create function claim_with_options(
  p_run text, p_turn integer, p_runner text, p_messages_max bigint, p_bytes_max bigint, p_inline_max bigint
) returns json language plpgsql as $$
declare
  claimed json := claim_with_tools(p_run, p_turn, p_runner, p_messages_max, p_bytes_max, p_inline_max);
begin
  return case when claimed is not null then json_build_array(claimed, (
    select coalesce(request_options, '{}') from runs where id = p_run)) end;
end
$$;

create function drop_request_options() returns trigger language plpgsql as $$
begin
  new.request_options := null;
  return new;
end
$$;

create trigger request_options before update of ended_at on runs for each row
  when (new.ended_at is not null and new.request_options is not null)
  execute function drop_request_options();

-- migrate:down

drop trigger request_options on runs;
drop function drop_request_options, claim_with_options, with_request_options;
alter table runs drop column request_options;
