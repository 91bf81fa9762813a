"""The effects of requests that change something: queries whether the effect on session `$1` is there."""

STARTED = "select exists (select from runs where session_id = $1 and attempt >= 1)"
ENDED = "select exists (select from runs where session_id = $1 and ended_at is not null)"
STARTED_AGAIN = "select count(*) filter (where attempt >= 1) = 2 from runs where session_id = $1"
CANCELLED = "select exists (select from runs where session_id = $1 and state = 'cancelled')"
DECIDED = """select exists (select from approvals a join runs r on r.id = a.run_id
    where a.session_id = $1 and a.state = 'approved' and r.attempt >= 2)"""
RENAMED = "select exists (select from sessions where id = $1 and title = 'renamed')"
DELETED = "select not exists (select from sessions where id = $1)"
FORKED = "select exists (select from sessions where id = 'fork of ' || $1)"
REPLAYED = """select exists (select from runs r
    join sessions s on s.tenant_id = r.tenant_id and s.id = r.session_id
    where s.forked_from = $1 and r.attempt >= 1)"""
RATED = "select exists (select from feedback where id = $1)"
REPORTED = "select exists (select from client_events where id = $1)"
MCP_ENDED = "select not exists (select from sessions where id = $1 and metadata->>'mcp' = 'open')"

# An effect deletes it, so that there is room for the next one: a tenant has few.
WEBHOOK_ADDED = "delete from webhook_endpoints where url = 'https://a.example/' || $1 returning true"
WEBHOOK_GONE = "select not exists (select from webhook_endpoints where url = 'https://a.example/' || $1)"
WEBHOOK_ON = (
    "delete from webhook_endpoints where url = 'https://a.example/' || $1 and disabled_at is null returning 1"
)
