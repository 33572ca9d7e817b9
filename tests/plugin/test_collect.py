"""From case files to pytest's tree: node ids, marks, mistakes. Nothing is provisioned in any of these."""

from __future__ import annotations

import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.plugin.conftest import TYPO, WALK

ROOT = Path(__file__).parents[2]
CASE = "test_walk.yaml::only the client reaches the backend"
NOT_OPENED = """
    import sys
    def pytest_sessionfinish(session):
        opened = [name for name in ("harness.clusters.memory.cluster", "harness.engine.session") if name in sys.modules]
        print("\\nopened:", opened)
"""


def test_a_phase_is_a_test_named_file_case_phase_in_the_order_written(suite):
    suite.write()
    result = suite.run("--collect-only", "-q")
    assert result.outlines[:3] == [f"{CASE}::baseline", f"{CASE}::deny", f"{CASE}::allow"]
    assert result.ret == 0


def test_several_documents_are_several_cases(suite):
    suite.write(WALK + "---\n" + WALK.replace("only the client reaches", "the same of"))
    items, _ = suite.pytester.inline_genitems("--cluster=memory")
    assert [item.parent.name for item in items[::3]] == ["only the client reaches the backend", "the same of the backend"]


def test_other_yaml_is_left_alone_unless_it_is_named(suite):
    suite.write(name="values.yaml")
    assert suite.run("--collect-only", "-q").ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result = suite.run("--collect-only", "-q", "values.yaml")
    assert "values.yaml::only the client reaches the backend::deny" in result.outlines


def test_a_case_file_may_end_in_yml(suite):
    suite.write(name="test_short.yml")
    result = suite.run("-q", "test_short.yml::only the client reaches the backend::deny")
    assert result.parseoutcomes() == {"passed": 1}
    assert "test_short.yml::only the client reaches the backend::deny" in suite.run("--collect-only", "-q").outlines


def test_files_outside_the_root_directory_keep_their_names(suite, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name, text in (("test_walk.yaml", WALK), ("test_typo.yaml", TYPO)):
        (elsewhere / name).write_text(text)
    suite.path.joinpath("pytest.ini").write_text("[pytest]")
    result = suite.run(f"--rootdir={suite.path}", str(elsewhere / "test_walk.yaml"), str(elsewhere / "test_typo.yaml"))
    result.assert_outcomes(passed=5, failed=1)
    (again,) = [line for line in result.outlines if line.startswith("again: ")]
    command = shlex.split(again.removeprefix("again: pytest "))
    assert (suite.path / command[0].partition("::")[0]).resolve() == elsewhere / "test_typo.yaml"
    assert suite.run(f"--rootdir={suite.path}", *command).ret == pytest.ExitCode.TESTS_FAILED


def test_tags_are_marks_that_strict_markers_accepts_and_m_selects(suite):
    suite.write()
    suite.write(WALK.replace("tags: [zero-trust, l4]", "tags: [other]"), "test_other.yaml")
    result = suite.run("--collect-only", "-q", "--strict-markers", "-m", "zero-trust and not other")
    assert [line for line in result.outlines if "::" in line] == [f"{CASE}::{phase}" for phase in ("baseline", "deny", "allow")]


def test_k_matches_cases_and_phases(suite):
    suite.write()
    assert [line for line in suite.run("--collect-only", "-q", "-k", "deny").outlines if "::" in line] == [f"{CASE}::deny"]
    assert len([line for line in suite.run("--collect-only", "-q", "-k", "client").outlines if "::" in line]) == 3


def test_collect_only_provisions_nothing(suite):
    suite.write()
    suite.path.joinpath("conftest.py").write_text(textwrap.dedent(NOT_OPENED))
    result = suite.spawn("--collect-only", "-q", "--harness-jsonl=events.jsonl", "-s")
    result.stdout.fnmatch_lines(["opened: []"])
    assert not suite.path.joinpath("events.jsonl").exists()


def test_a_mistake_is_shown_with_file_line_and_caret_and_without_a_traceback(suite):
    suite.write(WALK.replace("- allow: client, intruder -> backend:8080", "- allow: clint -> backend:8080"))
    suite.path.joinpath("conftest.py").write_text(textwrap.dedent(NOT_OPENED))
    result = suite.spawn("-s")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines([
        "*ERROR collecting test_walk.yaml*",
        "test_walk.yaml:10:14: *clint*",
        "        - allow: clint -> backend:8080",
        "                 ^^^^^",
        "  did you mean `client`?",
    ])
    result.stdout.fnmatch_lines(["opened: []"])
    assert "Traceback" not in result.stdout.str()
    assert "harness/" not in result.stdout.str()


def test_a_mistake_in_one_file_keeps_the_good_ones_from_running_too(suite):
    suite.write()
    suite.write("case: broken\n", "test_broken.yaml")
    result = suite.run("--harness-jsonl=events.jsonl")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert "passed" not in result.stdout.str()
    assert not suite.path.joinpath("events.jsonl").exists()


def test_under_xdist_a_mistake_is_told_once_and_nothing_runs_either(suite):
    suite.write()
    suite.write("case: broken\nphase: {}\n", "test_broken.yaml")
    result = suite.spawn("-n", "2", "--harness-jsonl=events.jsonl")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert result.stdout.str().count("ERROR collecting test_broken.yaml") == 1
    assert "passed" not in result.stdout.str()
    assert not suite.path.joinpath("events.jsonl").exists()


def test_the_plugin_is_registered_once_by_entry_point_and_conftest(suite):
    suite.write()
    suite.path.joinpath("conftest.py").write_text(
        textwrap.dedent("""
            pytest_plugins = ["harness.plugin"]
            def pytest_configure(config):
                import harness.plugin
                names = [name for name, plugin in config.pluginmanager.list_name_plugin() if plugin is harness.plugin]
                print("\\nregistered:", names)
        """)
    )
    result = suite.spawn("--collect-only", "-q", "-s")
    result.stdout.fnmatch_lines(["registered: ['harness.plugin']", f"{CASE}::baseline"])
    assert len([line for line in result.outlines if line.endswith("::deny")]) == 1


def test_a_project_without_cases_pays_for_no_import_of_ours(suite):
    suite.pytester.makepyfile(
        test_plain="""
            import sys
            def test_it():
                heavy = {"pydantic", "yaml", "jinja2", "harness.cases.case", "harness.clusters.base", "harness.engine.events", "harness.reports.tally"}
                assert not heavy & set(sys.modules)
        """
    )
    suite.spawn(cluster=None).assert_outcomes(passed=1)


def test_a_path_that_does_not_exist_is_all_that_is_said_where_only_the_runtime_is_installed(monkeypatch):
    """pytest reads tests/conftest.py then, and the development packages that it uses are not there."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # hypothesis brings a plugin of its own
    script = "import sys; sys.modules['hypothesis'] = None; import pytest; sys.exit(pytest.main(['my-polices']))"
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert run.stderr.strip() == "ERROR: file or directory not found: my-polices"
