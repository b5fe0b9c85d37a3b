"""Every scripted history passes with its safeguard, and shows the damage it is about without."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from logcluster.sim import ablations
from logcluster.sim.invariants import INVARIANTS
from logcluster.sim.scenarios import OFF_SCRIPT, SCENARIOS, Scenario
from logcluster.sim.scenarios.power import Loss
from logcluster.sim.scenarios.stage import OffScript, Stage, StageOptions


@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_is_found_with_the_safeguard(name: str) -> None:
    assert [str(finding) for finding in SCENARIOS[name].run(ablated=False)] == []


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_damage_is_found_without_the_safeguard(name: str) -> None:
    scenario = SCENARIOS[name]
    found = [finding.name for finding in scenario.run(ablated=True)]
    assert scenario.expected & set(found), f"expected one of {sorted(scenario.expected)}, found {found}"


def test_there_are_enough_stories_and_each_takes_a_safeguard_away() -> None:
    assert len(SCENARIOS) >= 30
    for name, scenario in SCENARIOS.items():
        assert scenario.name == name
        assert (scenario.ablation in {**ablations.ABLATIONS, **ablations.DORMANT}) == (scenario.patch is None), name


def test_the_documentation_tells_every_story() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "scenarios.md").read_text(encoding="utf-8")
    rows = {line.split("|")[1].strip(" `"): line for line in text.splitlines() if line.startswith("| `")}
    assert list(rows) == list(SCENARIOS)
    for name, scenario in SCENARIOS.items():
        assert f"`{scenario.ablation}`" in rows[name]
        assert scenario.title in rows[name]
        for found in scenario.expected:
            assert f"`{found}`" in rows[name]


def test_a_scenario_repeats_itself() -> None:
    scenario = next(iter(SCENARIOS.values()))
    assert scenario.run(ablated=True) == scenario.run(ablated=True)


# -- the stage itself -------------------------------------------------------------------------------------------------


def scenario_of(play: object) -> Scenario:
    return Scenario(
        name="made-up",
        title="",
        source="",
        safeguard="",
        ablation="fsync-before-ack",
        expected=frozenset(),
        play=play,  # type: ignore[arg-type]
    )


def test_a_story_that_cannot_be_told_is_a_finding_only_with_the_safeguard() -> None:
    async def waits_in_vain(stage: Stage) -> None:
        await stage.wait_until(lambda: False, "what never comes", timeout_ms=50)

    scenario = scenario_of(waits_in_vain)
    assert [finding.name for finding in scenario.run(ablated=False)] == [OFF_SCRIPT]
    assert scenario.run(ablated=True) == []


def test_what_the_script_expects_is_found_when_it_is_not_so() -> None:
    async def expects(stage: Stage) -> None:
        stage.expect(True, "never-found", "")
        stage.expect(False, "one-thing", "is not so")

    assert [finding.name for finding in scenario_of(expects).run(ablated=False)] == ["one-thing"]


@pytest.mark.parametrize(
    ("loses", "left"),
    [
        ("all", b"synced" + bytes(1_018)),
        ("first", b"synced" + bytes(506) + b"b" * 512),
        ("torn", b"a" * 512 + bytes(512)),
    ],
)
def test_a_power_loss_on_stage_takes_what_it_is_told(loses: Loss, left: bytes) -> None:
    seen: dict[str, object] = {}

    async def story(stage: Stage) -> None:
        disk = stage.machine(0).disk
        disk.make_dir("/elsewhere")
        disk.sync_dir("/")
        file = disk.open("/elsewhere/kept", create=True)
        disk.sync_dir("/elsewhere")
        file.preallocate(1_024)
        file.write_at(0, b"synced")
        file.sync()
        if loses == "torn":
            file.write_at(0, b"a" * 1_024)
        else:
            file.write_at(0, b"a" * 512)
            file.write_at(512, b"b" * 512)
        disk.open("/elsewhere/late", create=True)
        stage.power_off(0, loses=loses)
        seen["content"] = disk.content("/elsewhere/kept")
        seen["names"] = disk.list("/elsewhere")

    assert scenario_of(story).run(ablated=False) == []
    assert seen["content"] == left
    assert seen["names"] == (["kept"] if loses == "all" else ["kept", "late"])


def test_a_node_dies_at_a_failpoint_and_stays_down() -> None:
    async def story(stage: Stage) -> None:
        await stage.create_topic("orders", stage.others())
        writer = await stage.writer()
        follower = stage.others(stage.controller(), 0)[0]
        stage.crash_at(follower, "replication.follower.after_append")
        await stage.send(writer, "orders")
        await stage.sleep(1_000)
        assert stage.machine(follower).state == "down"
        with pytest.raises(OffScript):
            stage.replica(follower, "orders")

    assert scenario_of(story).run(ablated=False) == []


def test_a_topic_of_an_old_name_is_another_one_in_the_history() -> None:
    async def story(stage: Stage) -> None:
        for round_number in range(2):
            await stage.create_topic("orders", stage.others())
            writer = await stage.writer(f"writer{round_number}")
            await stage.send(writer, "orders", 2)
            writer.kill()
            if round_number == 0:
                await stage.delete_topic("orders")

    assert scenario_of(story).run(ablated=False) == []


def test_a_reader_on_stage_reads_and_asks_for_the_end() -> None:
    async def story(stage: Stage) -> None:
        await stage.create_topic("orders", stage.others())
        writer = await stage.writer()
        reader = await stage.reader("reader", "orders")
        sent = await stage.send(writer, "orders", 3)
        assert [record.offset for record in await reader.poll(3)] == [record.offset for record in sent]
        assert await reader.latest() == 3

    assert scenario_of(story).run(ablated=False) == []


def test_a_cut_holds_both_directions_and_a_hold_one() -> None:
    async def story(stage: Stage) -> None:
        stage.cut(0, 1)
        stage.hold(1, 2)
        assert stage.link(0, 1).is_cut and stage.link(1, 0).is_cut
        assert stage.link(1, 2).is_cut and not stage.link(2, 1).is_cut
        stage.join(0, 1)
        stage.release(1, 2)
        assert not any(stage.link(source, target).is_cut for source, target in ((0, 1), (1, 0), (1, 2)))

    assert scenario_of(story).run(ablated=False) == []


def test_the_stage_says_who_leads_and_who_is_elsewhere() -> None:
    async def story(stage: Stage) -> None:
        await stage.create_topic("orders", [2, 0])
        assert stage.leader_of("orders") == 2
        assert stage.in_sync("orders") == (0, 2)
        assert stage.others(2) == [0, 1]
        assert stage.controller() in stage.others()
        with pytest.raises(OffScript):
            stage.replica(1, "orders")
        with pytest.raises(OffScript):
            stage.partition("invoices")

    assert scenario_of(story).run(ablated=False) == []


def test_a_lost_record_is_found_on_stage() -> None:
    async def story(stage: Stage) -> None:
        await stage.create_topic("orders", stage.others())
        writer = await stage.writer()
        await stage.send(writer, "orders")
        record = writer.send("orders")
        await stage.acked([record])
        stage.books.sent.pop(record.value)
        operation = writer.voice.invoke("send", ["orders-0", None, "never-sent"], acks="all", idempotent=True)
        writer.voice.ok(operation, ["orders-0", 0, "never-sent"])

    assert "lost-write" in {finding.name for finding in scenario_of(story).run(ablated=False)}


def test_a_settings_key_of_the_options_counts() -> None:
    async def story(stage: Stage) -> None:
        assert stage.world.options.settings["broker.session_timeout_ms"] == 777

    options = StageOptions(settings={"broker.session_timeout_ms": 777})
    assert replace(scenario_of(story), options=options).run(ablated=False) == []


def test_every_expected_name_can_be_found() -> None:
    from logcluster.check.checker import rules

    of_stage = {"no-convergence", "partition-not-writable", "partition-not-readable", "unexpected-error"}
    for name, scenario in SCENARIOS.items():
        assert scenario.expected, name
        own = {found for found in scenario.expected if found.startswith("script-")}
        assert scenario.expected - own <= set(INVARIANTS) | set(rules()) | of_stage, name
