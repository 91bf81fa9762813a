"""The commands report what they did, or in one line why they failed."""

import asyncio
from pathlib import Path

from tests.support.system.local_system import LocalSystem
from tests.support.system.processes import run_rejoin


async def test_runs_can_be_listed_shown_and_retried(system: LocalSystem) -> None:
    await system.runner()
    base, session = await system.gateway(), system.fresh("s")
    run = (await system.post(base, system.chat(session, "fail"))).headers["x-workflow-run-id"]
    code, out, _ = await run_rejoin(system, "runs", "list", "--state", "failed", "--limit", "1000")
    assert code == 0
    [line] = [line for line in out.splitlines() if line.startswith(run)]
    assert session in line
    code, out, _ = await run_rejoin(system, "runs", "show", run)
    assert code == 0
    assert " events, ended, last record " in out
    code, out, _ = await run_rejoin(system, "runs", "retry", run)
    assert (code, out) == (0, f"{run} is failed: nothing to do\n")


async def test_a_fault_is_one_line(system: LocalSystem, tmp_path: Path) -> None:
    odd = tmp_path / "odd.toml"
    odd.write_text("port = [")
    cases = [
        (("gateway", "--config", str(odd)), {}, "odd.toml cannot be read as TOML"),
        (("runs", "show", "run_nobody"), {}, "there is no run 'run_nobody'"),
        (("gateway",), {"REJOIN_HOST": "0.0.0.0", "REJOIN_ALLOW_ANONYMOUS": "1"}, "needs a loopback address"),  # noqa: S104
        (("gateway",), {}, "no request could be authenticated"),
        (("keys", "create"), {}, "REJOIN_API_KEY_PEPPER"),
        (("keys", "revoke", "rk_nobody"), {}, "has no key"),
        (("gateway",), {"REJOIN_PORT": "many"}, "REJOIN_"),
        (("runner", "nowhere"), {}, "expected MODULE:ATTR"),
        (("runner", "no.such.module:agent"), {}, "cannot import no.such.module"),
        (("runner", "rejoin_runner.demo:nothing"), {}, "rejoin_runner.demo has no nothing"),
        (("runner", "rejoin_runner.demo:weather"), {}, "expected an Agent"),
        (("runner", "--demo"), {"REJOIN_MODEL": "nobody:x"}, "nobody"),
        (("runner", "--demo"), {"REJOIN_MODEL": "openai:x"}, "key"),
        (("runner",), {}, "Which agents?"),
        (("runner", "--demo", "shop:agent"), {}, "Which agents?"),
    ]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(run_rejoin(system, *words, **variables)) for words, variables, _ in cases]
    for task, (words, _, expected) in zip(tasks, cases, strict=True):
        code, _, err = task.result()
        assert code != 0, words
        assert expected in err, (words, err)
        assert "Traceback" not in err, (words, err)


async def test_migrating_twice_changes_nothing(system: LocalSystem) -> None:
    code, out, _ = await run_rejoin(system, "migrate")
    assert (code, out) == (0, "up to date\n")


async def test_a_key_is_issued_once_listed_and_revoked(system: LocalSystem) -> None:
    """The command prints the key itself only when it creates the key."""
    pepper, tenant = {"REJOIN_API_KEY_PEPPER": "a pepper of some length"}, system.fresh("tenant")
    words = ("keys", "--tenant", tenant)
    code, out, _ = await run_rejoin(
        system, *words, "create", "--scope", "chat", "--user", "ann", "--days", "3", **pepper
    )
    assert code == 0
    key, _, secret = out.strip().partition(".")
    _, listed, _ = await run_rejoin(system, *words, "list")
    assert key in listed
    assert "user=ann" in listed
    assert "expires" in listed
    assert secret not in listed
    code, out, _ = await run_rejoin(system, *words, "revoke", key)
    assert code == 0
    assert "revoked" in (await run_rejoin(system, *words, "list"))[1]
