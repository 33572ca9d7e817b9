"""The `cluster` and `connectivity` fixtures: cases in Python, with the same strictness. On the `memory` cluster."""

from __future__ import annotations

import textwrap

import pytest

from tests.plugin.conftest import WALK

DECLARED = """
    import pytest

    @pytest.fixture
    def shop(connectivity):
        connectivity.declare(
            namespace="shop",
            endpoints={
                "client": {"labels": {"app": "client"}},
                "intruder": {"labels": {"app": "intruder"}},
                "backend": {"labels": {"app": "backend"}, "ports": [8080]},
            },
        )
        return connectivity
"""
DENY = "{'apiVersion': 'cilium.io/v2', 'kind': 'CiliumNetworkPolicy', 'metadata': {'name': 'deny'}, 'spec': {'endpointSelector': {}, 'ingress': [{}]}}"


@pytest.fixture
def python(suite):
    """Runs a Python test file, with `DENY` and the fixture `shop` at hand."""

    def run(body: str, *args: str) -> pytest.RunResult:
        suite.path.joinpath("test_shop.py").write_text(textwrap.dedent(DECLARED) + f"\nDENY = {DENY}\n" + textwrap.dedent(body))
        return suite.run(*args)

    return run


def test_expectations_are_checked_at_once_and_policies_change_in_between(python):
    python("""
        def test_walk(shop):
            results = shop.expect("allow: client, intruder -> backend:8080")
            assert [each.source for each in results] == ["client", "intruder"]
            shop.apply(DENY)
            shop.expect("deny: client, intruder -> backend:8080", reason="default-deny", at="ingress")
            shop.remove("deny")
            shop.expect("allow: client -> backend:8080")
    """).assert_outcomes(passed=1)


def test_a_failed_expectation_fails_the_test_at_its_line_with_the_account(python):
    result = python("""
        def test_wrong(shop):
            shop.expect("allow: client -> backend:8080")
            shop.apply(DENY)
            shop.expect("allow: client -> backend:8080")
    """)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([
        '>       shop.expect("allow: client -> backend:8080")',
        "test_shop.py:*",
        "failed allow: client -> backend:8080/TCP: dropped at ingress, default-deny",
        "    model     deny; *CiliumNetworkPolicy/shop/deny*",
        "again: pytest test_shop.py::test_wrong --cluster=memory",
        "FAILED test_shop.py::test_wrong - *",
    ])
    assert "harness/plugin" not in result.stdout.str()


def test_unknown_is_unknown_in_python_too(python):
    result = python("""
        import pytest
        def test_gate(shop):
            with pytest.raises(AssertionError, match="nothing denied it"):
                shop.expect("deny: client -> backend:8080")
            shop.apply(DENY)
            shop.expect("deny: client -> backend:8080")
    """)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*the baseline did not hold*", "*1 unknown in*"])


def test_a_policy_that_does_nothing_fails_the_test_unless_it_is_named_inert(python):
    inert = DENY.replace("[{}]", "[]")
    result = python(f"""
        def test_silent(shop):
            shop.apply({inert})
        def test_declared(shop):
            shop.apply({inert}, inert="deny")
            shop.expect("allow: client -> backend:8080")
    """)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines([
        "failed CiliumNetworkPolicy/shop/deny is refused, so nothing of it is enforced: *",
        "    likely    *`ingress: [[]{}]`*",
    ])


def test_a_case_file_lends_its_endpoints_and_its_phases(suite, python):
    suite.write(WALK, "cases/test_walk.yaml")
    python(
        """
        def test_endpoints(connectivity):
            connectivity.load("cases/test_walk.yaml")
            connectivity.expect("allow: intruder -> backend:8080")
        def test_phases(connectivity):
            case = connectivity.load("cases/test_walk.yaml")
            connectivity.run("allow")
            connectivity.expect("deny: intruder -> backend:8080", at="ingress")
            connectivity.remove("backend")
            connectivity.expect("deny: client -> backend:8080", reason="default-deny")
        """,
        "test_shop.py",
    ).assert_outcomes(passed=2)


def test_manifests_are_applied_by_path_relative_to_the_test(suite, python):
    suite.path.joinpath("deny.yaml").write_text(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: deny}\nspec: {endpointSelector: {}, ingress: [{}]}\n"
    )
    python("""
        def test_it(shop):
            shop.expect("allow: client -> backend:8080")
            shop.apply("deny.yaml")
            shop.expect("deny: client -> backend:8080")
    """).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("call", "lines"),
    [
        ('shop.expect("allow: clint -> backend:8080")', ["test_shop.py:*clint*", "*^^^^^*", "*did you mean `client`?*"]),
        ('shop.apply("den.yaml")', ["test_shop.py:*there is no manifest den.yaml*", "*paths are relative*"]),
        ('shop.remove("backend")', ["test_shop.py:*policy `backend` is not in force here*"]),
        ("shop.declare(endpoints={})", ["test_shop.py:*the case is declared already*", "*one test, one case*"]),
        ('shop.load("nowhere.yaml")', ["test_shop.py:*the case is declared already*"]),
    ],
)
def test_a_mistake_in_a_call_points_at_the_tests_line_without_a_traceback(call, lines, python):
    result = python(f"""
        def test_it(shop):
            {call}
    """)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(lines)
    assert "harness/plugin" not in result.stdout.str()


def test_a_mistake_in_a_declaration_is_shown_with_a_caret(python):
    result = python("""
        def test_it(connectivity):
            connectivity.declare(endpoints={"web": {"lables": {"app": "web"}}})
    """)
    result.stdout.fnmatch_lines(["<declared in test_shop.py:*lables*", "    *lables:*", "    *^^^^^^*", "*did you mean `labels`?*"])


def test_the_cluster_fixture_is_the_place_where_cases_run(python):
    python("""
        def test_it(cluster, connectivity):
            assert cluster.name == "memory"
            assert cluster.simulated
    """).assert_outcomes(passed=1)


def test_an_unopenable_cluster_fails_python_tests_with_the_one_message(suite, python, unopenable):
    python("def test_it(cluster): pass")
    result = suite.run("-rN", cluster="existing")
    result.assert_outcomes(errors=1)
    assert result.stdout.str().count(unopenable) == 1
    assert "Traceback" not in result.stdout.str()


def test_python_tests_and_case_files_share_one_cluster_and_report_to_the_same_place(suite, python):
    suite.write()
    python(
        """
        def test_it(shop):
            shop.expect("allow: client -> backend:8080")
        """,
        "--harness-jsonl=events.jsonl",
    ).assert_outcomes(passed=4)
    events = suite.events()
    assert [event["kind"] for event in events].count("run-started") == 1
    assert [event["phase"] for event in events if event.get("test") == "test_shop.py::test_it" and event["kind"] == "phase-finished"] == [
        "expect 1"
    ]


def test_what_the_cluster_lacks_skips_the_python_test(python):
    result = python(
        """
        def test_it(connectivity):
            connectivity.declare(endpoints={"near": {"node": "a"}, "middle": {"node": "b"}, "far": {"node": "c", "ports": [80]}})
            connectivity.expect("allow: near, middle -> far:80")
        """,
        "-rs",
    )
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*requires nodes-3*"])
