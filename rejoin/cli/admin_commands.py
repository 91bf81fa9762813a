"""The commands for administrators: `rejoin runs | sessions | users | keys | tenants`.

This module imports the database and NATS drivers. `main` imports it when one of these commands is called.
"""

from collections.abc import Mapping
from datetime import datetime

import click
import msgspec

from rejoin.cli import api_keys, deletion, runs, tenants
from rejoin.cli.operate import sessions, webhooks
from rejoin.cli.options import json_option, limit_option, since_option, with_settings
from rejoin_adapters.ports.webhooks import WEBHOOK_EVENTS
from rejoin_adapters.store_types import Limits, RunFilter
from rejoin_gateway.auth.scope import Scope
from rejoin_protocol.ids import AgentName, RunId, SessionId, UserId
from rejoin_protocol.lifecycle import State
from rejoin_protocol.money import parse_usd

DAYS_MAX = 36_500


@click.command(name="list")
@click.option("--state", type=click.Choice([state.value for state in State]), help="Only runs in this state.")
@click.option("--agent", help="Only runs of this agent.")
@click.option("--session", help="Only runs of this session.")
@click.option("--user", help="Only runs of this user.")
@since_option("created")
@click.option("--before", metavar="RUN", help="Only runs that are older than this one: the next page.")
@limit_option
@json_option
@with_settings(runs.RunSettings)
def runs_list(
    settings: runs.RunSettings,
    state: str | None,
    agent: str | None,
    session: str | None,
    user: str | None,
    *,
    since: datetime | None,
    before: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List runs, newest first."""
    wanted = RunFilter(
        state=State(state) if state else None,
        agent=AgentName(agent) if agent else None,
        session=SessionId(session) if session else None,
        user=UserId(user) if user else None,
        since=since,
        before=RunId(before) if before else None,
    )
    runs.execute(settings, lambda commands: commands.list(wanted, limit, as_json=as_json))


@click.command(name="show")
@click.argument("run")
@json_option
@with_settings(runs.RunSettings)
def runs_show(settings: runs.RunSettings, run: str, *, as_json: bool) -> None:
    """Show a run, what it waits for, and the end of its log."""
    runs.execute(settings, lambda commands: commands.show(run, as_json=as_json))


@click.command(name="retry")
@click.argument("run")
@with_settings(runs.RunSettings)
def runs_retry(settings: runs.RunSettings, run: str) -> None:
    """Send the request for an unfinished run to the runners again."""
    runs.execute(settings, lambda commands: commands.retry(run))


@click.command(name="interrupt")
@click.argument("run")
@with_settings(runs.RunSettings)
def runs_interrupt(settings: runs.RunSettings, run: str) -> None:
    """End a run that is queued, running or waiting for an approval."""
    runs.execute(settings, lambda commands: commands.interrupt(run))


@click.command(name="list")
@click.option("--agent", help="Only sessions with this agent.")
@since_option("last changed")
@click.option("--before", metavar="TOKEN", help="The next page: what the page before has printed.")
@limit_option
@json_option
@with_settings(runs.RunSettings)
def sessions_list(
    settings: runs.RunSettings,
    agent: str | None,
    since: datetime | None,
    before: str | None,
    limit: int,
    *,
    as_json: bool,
) -> None:
    """List sessions, the last changed first."""
    query = sessions.SessionQuery(
        agent=AgentName(agent) if agent else None, since=since, before=before, limit=limit
    )
    sessions.execute(settings, query, as_json=as_json)


@click.command(name="delete")
@click.argument("session")
@with_settings(runs.RunSettings)
def sessions_delete(settings: runs.RunSettings, session: str) -> None:
    """Delete a session with its messages, runs, logs and artifacts."""
    deletion.execute(settings, lambda commands: commands.delete_session(session))


@click.command(name="forget")
@click.argument("tenant")
@click.argument("user")
@with_settings(runs.RunSettings)
def users_forget(settings: runs.RunSettings, tenant: str, user: str) -> None:
    """Delete a user's sessions and API keys.

    Messages, runs, logs, artifacts and files of the sessions are deleted with them.
    """
    of_tenant = msgspec.structs.replace(settings, tenant=tenant)
    deletion.execute(of_tenant, lambda commands: commands.forget_user(user))


@click.command(name="create")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice([scope.value for scope in Scope]),
    default=["chat", "approve"],
    show_default=True,
    help="What the key allows. Repeat the option for several scopes.",
)
@click.option("--name", help="A description, shown by `rejoin keys list`.")
@click.option("--agent", help="The only agent that the key can use. Default: all agents.")
@click.option("--user", help="The user whose sessions the key can reach. Default: all users of the tenant.")
@click.option("--days", type=click.IntRange(1, DAYS_MAX), help="Days until the key expires. Default: never.")
@with_settings(api_keys.KeySettings)
def keys_create(
    settings: api_keys.KeySettings,
    scopes: tuple[str, ...],
    name: str | None,
    agent: str | None,
    user: str | None,
    days: int | None,
) -> None:
    """Create an API key and print it. It cannot be printed again."""
    new_key = api_keys.NewKey(
        scopes=tuple(Scope(scope) for scope in scopes), name=name, agent=agent, user=user, days=days
    )
    api_keys.execute(settings, lambda commands: commands.create(new_key))


@click.command(name="list")
@with_settings(api_keys.KeySettings)
def keys_list(settings: api_keys.KeySettings) -> None:
    """List API keys by id, newest first. The secrets are not stored."""
    api_keys.execute(settings, lambda commands: commands.list())


@click.command(name="revoke")
@click.argument("key")
@with_settings(api_keys.KeySettings)
def keys_revoke(settings: api_keys.KeySettings, key: str) -> None:
    """Revoke the API key with this id."""
    api_keys.execute(settings, lambda commands: commands.revoke(key))


@click.command(name="limits")
@click.argument("tenant")
@click.option("--running", type=click.IntRange(1), help="Concurrent runs. Further runs are queued.")
@click.option("--queued", type=click.IntRange(1), help="Queued runs. Further messages are refused.")
@click.option(
    "--tokens-per-day",
    type=click.IntRange(1),
    help="Tokens per day. Further messages are refused until 0:00 UTC.",
)
@click.option(
    "--cost-per-day",
    type=click.FloatRange(0.000001, 9_000_000),
    metavar="USD",
    help="US dollars per day, of models that have a price. Likewise.",
)
@click.option("--requests-per-minute", type=click.IntRange(1), help="Requests per minute at each gateway.")
@click.option("--file-bytes", type=click.IntRange(1), help="Total size of all stored files, in bytes.")
@click.option("--session-bytes", type=click.IntRange(1), help="Messages of one session, in bytes of JSON.")
@click.option("--text-bytes", type=click.IntRange(1), help="All messages. Above it nothing can be forked.")
@click.option("--user-running", type=click.IntRange(1), help="Concurrent runs of one user.")
@click.option("--user-queued", type=click.IntRange(1), help="Queued runs of one user.")
@click.option("--user-text-bytes", type=click.IntRange(1), help="All messages of one user, as --text-bytes.")
@click.option("--clear", is_flag=True, help="Remove all limits that this command does not set.")
@with_settings(tenants.TenantSettings)
def tenants_limits(
    settings: tenants.TenantSettings,
    tenant: str,
    running: int | None,
    queued: int | None,
    tokens_per_day: int | None,
    cost_per_day: float | None,
    requests_per_minute: int | None,
    file_bytes: int | None,
    *,
    session_bytes: int | None,
    text_bytes: int | None,
    user_running: int | None,
    user_queued: int | None,
    user_text_bytes: int | None,
    clear: bool,
) -> None:
    """Show a tenant's limits, after setting those that are given.

    Gateways and runners apply new limits within seconds.
    """
    new_limits = Limits(
        running_max=running,
        queued_max=queued,
        tokens_per_day=tokens_per_day,
        nano_usd_per_day=parse_usd(cost_per_day),
        requests_per_minute=requests_per_minute,
        file_bytes_max=file_bytes,
        session_bytes_max=session_bytes,
        text_bytes_max=text_bytes,
        user_running_max=user_running,
        user_queued_max=user_queued,
        user_text_bytes_max=user_text_bytes,
    )
    tenants.execute(settings, tenant, new_limits, clear=clear)


@click.command(name="add")
@click.argument("url")
@click.option(
    "--event",
    "events",
    multiple=True,
    type=click.Choice(WEBHOOK_EVENTS),
    default=WEBHOOK_EVENTS,
    show_default=True,
    help="What the receiver is told. Repeat the option for several.",
)
@with_settings(webhooks.WebhookSettings)
def webhooks_add(settings: webhooks.WebhookSettings, url: str, events: tuple[str, ...]) -> None:
    """Tell URL of the tenant's runs. Prints the endpoint's id, and its secret, this once."""
    webhooks.execute(settings, lambda commands: commands.add(url, events))


@click.command(name="list")
@with_settings(webhooks.WebhookSettings)
def webhooks_list(settings: webhooks.WebhookSettings) -> None:
    """List endpoints, with what is still to be sent and what has failed."""
    webhooks.execute(settings, lambda commands: commands.list())


@click.command(name="remove")
@click.argument("endpoint")
@with_settings(webhooks.WebhookSettings)
def webhooks_remove(settings: webhooks.WebhookSettings, endpoint: str) -> None:
    """Remove an endpoint, and what was still to be sent to it."""
    webhooks.execute(settings, lambda commands: commands.remove(endpoint))


@click.command(name="rotate")
@click.argument("endpoint")
@click.option(
    "--hours",
    default=24,
    show_default=True,
    type=click.IntRange(0, 24 * 30),
    help="How long the old secret signs as well.",
)
@with_settings(webhooks.WebhookSettings)
def webhooks_rotate(settings: webhooks.WebhookSettings, endpoint: str, hours: int) -> None:
    """Replace an endpoint's secret, and print the new one."""
    webhooks.execute(settings, lambda commands: commands.rotate(endpoint, hours))


@click.command(name="test")
@click.argument("endpoint")
@with_settings(webhooks.WebhookSettings)
def webhooks_test(settings: webhooks.WebhookSettings, endpoint: str) -> None:
    """Send an event of the type webhook.test."""
    webhooks.execute(settings, lambda commands: commands.test(endpoint))


@click.command(name="replay")
@click.argument("endpoint")
@with_settings(webhooks.WebhookSettings)
def webhooks_replay(settings: webhooks.WebhookSettings, endpoint: str) -> None:
    """Send again what has failed, and switch the endpoint on."""
    webhooks.execute(settings, lambda commands: commands.replay(endpoint))


COMMANDS: Mapping[str, Mapping[str, click.Command]] = {
    "runs": {"list": runs_list, "show": runs_show, "retry": runs_retry, "interrupt": runs_interrupt},
    "sessions": {"list": sessions_list, "delete": sessions_delete},
    "users": {"forget": users_forget},
    "keys": {"create": keys_create, "list": keys_list, "revoke": keys_revoke},
    "tenants": {"limits": tenants_limits},
    "webhooks": {
        "add": webhooks_add,
        "list": webhooks_list,
        "remove": webhooks_remove,
        "rotate": webhooks_rotate,
        "test": webhooks_test,
        "replay": webhooks_replay,
    },
}
"""The commands by group and name."""
