from __future__ import annotations

import pytest

from components.core.errors import UsageError
from components.core.part import Part, part_names
from components.core.sources import ResolvedSource, SourceInput, SourceParams, expected_tasks
from tests.conftest import Embedmill


@pytest.mark.parametrize(("items", "count"), [(0, 1), (1, 3), (7, 1), (7, 3), (8, 8)])
def test_every_item_is_in_one_share_and_shares_differ_by_one_at_most(items: int, count: int) -> None:
    shares = [Part("shards", number, count).own(range(items)) for number in range(1, count + 1)]
    assert sorted(item for share in shares for item in share) == list(range(items))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_there_is_one_pod_an_item_up_to_the_limit() -> None:
    assert part_names(3, 16) == ["1/3", "2/3", "3/3"]
    assert len(part_names(44_704, 64)) == 64
    assert part_names(0, 16) == ["1/1"], "a loop over nothing would be skipped"
    assert [str(Part.parse("shards", name)) for name in part_names(2, 16)] == ["1/2", "2/2"]


@pytest.mark.parametrize("share", ["", "3", "0/3", "4/3", "1/0", "1/2/3", "-1/3", "one/two", "1 / 3"])
def test_a_malformed_share_is_refused(share: str) -> None:
    with pytest.raises(UsageError, match="expected K/N with 1 ≤ K ≤ N"):
        Part.parse("shards", share)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--stage", "shards"), "--stage and --part go together"),
        (("--part", "1/2"), "--stage and --part go together"),
        (("--stage", "shard", "--part", "1/2"), "--stage shard: the stages of ingest are shards"),
        (("--stage", "shards", "--part", "3/2"), "--part 3/2: expected K/N"),
    ],
)
def test_the_command_line_says_what_a_stage_wants(embedmill: Embedmill, arguments: tuple[str, ...], said: str) -> None:
    result = embedmill("ingest", *arguments)
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert said in result.stderr


def test_a_step_without_stages_has_no_such_option(embedmill: Embedmill) -> None:
    result = embedmill("export", "--stage", "shards", "--part", "1/2")
    assert result.returncode == 2
    assert "No such option" in result.stderr


def test_expected_tasks_go_by_what_can_be_cut() -> None:
    def source(*files: tuple[str, int]) -> ResolvedSource:
        return ResolvedSource(SourceParams(uri="corpus"), tuple(SourceInput(uri, "d", size) for uri, size in files))

    mib = 1 << 20
    assert expected_tasks([source(("a.jsonl", 160 * mib))], 16 * mib) == 10
    assert expected_tasks([source(("a.jsonl.gz", 160 * mib), ("b.csv", 160 * mib))], 16 * mib) == 2
    assert expected_tasks([source(("a.parquet", 40 * mib))], 16 * mib) == 10
    assert expected_tasks([source(*((f"{page}.html", 16_000) for page in range(2000)))], 16 * mib) == 2
    assert expected_tasks([source(("a.jsonl", 0))], 16 * mib) == 0
    documented = ResolvedSource(
        SourceParams(uri="pydoc:", stdlib=True), (SourceInput("pydoc:numpy", "d", 14_000, "2"),)
    )
    assert expected_tasks([documented], 16 * mib) == 16
