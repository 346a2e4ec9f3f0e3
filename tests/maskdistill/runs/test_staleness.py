import pytest

from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.runs import staleness
from workflow_scripts.maskdistill.runs.code_digest import code_digest
from workflow_scripts.maskdistill.runs.rule_texts import parameters, rule_texts


def changed(*, before: str, now: str) -> str:
    """Snakemake's words for changed parameters."""
    union = "Union of exclusive params before and now across all output"
    return f"Params have changed since last execution: {union}: before: {before} now: {now} "


def job(rule: str, *outputs: str, reason: str, dataset: str = "demo") -> staleness.Job:
    return staleness.Job(rule, dataset, outputs, reason)


MASKS = changed(
    before=repr('{"masks": {"heads": null, "top_k": 0.2}}'),
    now=repr('{"masks": {"heads": [0, 1], "top_k": 0.3}}'),
)


def test_settings_are_named_with_their_old_and_new_values():
    old = {"a": {"b": 1, "c": [1, 2]}, "gone": "x", "same": None}
    new = {"a": {"b": 2, "c": [1]}, "same": None, "fresh": True}
    assert list(staleness.changed_settings(old, new)) == [
        "a.b: 1 → 2",
        "a.c: [1, 2] → [1]",
        "fresh: new, true",
        'gone: no longer used, was "x"',
    ]
    assert list(staleness.changed_settings(old, old)) == []


def test_a_changed_setting_and_what_follows():
    jobs = [job("make_masks", f"masks/{i:04d}.parquet", reason=MASKS) for i in range(2)]
    jobs += [
        job(
            "embed_masks",
            f"embeddings/{i:04d}.parquet",
            reason=f"Input files updated by another job: masks/{i:04d}.parquet",
        )
        for i in range(2)
    ]
    lines = [line.split() for line in staleness.describe(jobs).splitlines()]
    assert lines[1:4] == [
        ["demo", "make_masks", "2", "masks.heads:", "null", "→", "[0,", "1]"],
        ["masks.top_k:", "0.2", "→", "0.3"],
        ["demo", "embed_masks", "2", "follows", "make_masks"],
    ]
    summary = " ".join(lines[-1])
    assert summary == "4 jobs of 2 stages; all other files are up to date."


def test_code_and_images_are_told_apart():
    digest = code_digest("workflow_scripts.list_images", REPOSITORY)
    code = changed(before="'0123456789abcdef'", now=repr(digest))
    listing = changed(before="'aaaaaaaaaaaaaaaa'", now="'bbbbbbbbbbbbbbbb'")
    text = staleness.describe(
        [job("list_images", "a", reason=code), job("list_images", "b", reason=listing)]
    )
    assert "1 of them: code of list_images or of a module that it imports" in text
    assert "1 of them: images were added, removed or replaced" in text


def test_settings_and_code_at_once():
    digest = code_digest("workflow_scripts.make_masks", REPOSITORY)
    both = changed(
        before="""'{"masks": {"top_k": 0.2}}','0123456789abcdef'""",
        now=f"""'{digest}','{{"masks": {{"top_k": 0.3}}}}'""",
    )
    assert list(staleness.reasons(job("make_masks", "a", reason=both))) == [
        "masks.top_k: 0.2 → 0.3",
        "code of make_masks or of a module that it imports",
    ]


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("Missing output files: a/0003.parquet", "not made yet: a/*.parquet"),
        ("Missing output files: a.csv, b.csv", "not made yet: a.csv and 1 more"),
        ("Incomplete output files: a/0003.parquet", "was killed while writing: a/*.parquet"),
        ("Updated input files: weights.pth", "changed input: weights.pth"),
        ("Set of input files has changed since last execution", "other input files"),
        ("Forced execution", "forced"),
        ("Something new in Snakemake", "Something new in Snakemake"),
    ],
)
def test_other_reasons(reason, expected):
    assert list(staleness.reasons(job("make_masks", "a", reason=reason))) == [expected]


def test_a_setting_with_semicolons_and_quotes_is_read_whole():
    old, new = """{"list": "it's; no"}""", '{"list": "b"}'
    reason = changed(before=repr(old), now=repr(new)) + "; Missing output files: x"
    assert list(staleness.reasons(job("list_images", "a", reason=reason))) == [
        """list: "it's; no" → "b\"""",
        "not made yet: x",
    ]


def test_nothing_is_stale():
    assert staleness.describe([]) == "Nothing is stale."


def test_every_parameter_of_a_rule_is_explained():
    unknown = {
        (rule, name)
        for rule in rule_texts(REPOSITORY)
        for name in parameters(rule, REPOSITORY)
        if name not in ("settings", "code") and name not in staleness.OTHER_PARAMETERS
    }
    assert unknown == set()
    used = {name for rule in rule_texts(REPOSITORY) for name in parameters(rule, REPOSITORY)}
    assert used >= staleness.OTHER_PARAMETERS.keys()
