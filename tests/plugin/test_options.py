"""What is in force, where it came from, and what is said of values that cannot be."""

from __future__ import annotations

import os

import pytest

from harness.clusters.open import DEFAULT_CLUSTER
from harness.errors import UsageError
from harness.plugin.options import OPTIONS, resolve
from harness.policy.options import DEFAULT_CILIUM


@pytest.fixture
def resolved(suite):
    """What is in force for a command line, an ini file and an environment."""

    def resolve_with(*args: str, ini: str = "", environment: dict[str, str] | None = None):
        suite.pytester.makeini(f"[pytest]\n{ini}")
        return resolve(suite.pytester.parseconfig(*args), environment or {})

    return resolve_with


def test_nothing_said_means_the_lab_the_models_default_version_and_the_clusters_own_ways(resolved):
    options = resolved()
    assert (options.cluster, options.cilium) == (DEFAULT_CLUSTER, DEFAULT_CILIUM)
    assert (options.hubble, options.timeout, options.hubble_listen, options.keep, options.repeat) == (None, None, "", False, ())


def test_command_line_beats_environment_beats_ini(resolved):
    ini, environment = "harness_cluster = existing", {"HARNESS_CLUSTER": "kind"}
    assert resolved(ini=ini).cluster == "existing"
    assert resolved(ini=ini, environment=environment).cluster == "kind"
    assert resolved("--cluster=memory", ini=ini, environment=environment).cluster == "memory"


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_option_can_be_given_in_all_three_places(option, resolved, suite):
    suite.path.joinpath("externals.yaml").write_text("world: {addresses: [203.0.113.10], ports: [443]}")
    value = {
        "cluster": "memory",
        "cilium-version": "1.19",
        "hubble": "off",
        "timeout": "2.5",
        "hubble-listen": "localhost:4245",
        "kube-context": "staging",
        "image": "registry.example/python:3.13",
        "image-pull-policy": "Never",
        "image-pull-secret": "ci/registry,other",
        "toleration": "dedicated=tests:NoSchedule,gpu",
        "node-selector": "pool=tests,kubernetes.io/os=linux",
        "profile": "wireguard",
        "cilium-chart": "charts/cilium-1.19.7.tgz",
        "kind-name": "mine",
        "kind-image": "kindest/node:v1.35.8",
        "externals": str(suite.path / "externals.yaml"),
    }[option.name]
    given = [
        resolved(f"--{option.name}={value}"),
        resolved(ini=f"{option.dest} = {value}"),
        resolved(environment={option.variable: value}),
    ]
    field = {"cilium-version": "cilium"}.get(option.name, option.name.replace("-", "_"))
    assert {str(getattr(each, field)) for each in given} == {value}


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        ("--cluster=memroy", "--cluster: unknown cluster 'memroy'", "did you mean `memory`?"),
        ("--cilium-version=1.2", "--cilium-version: the policy model does not know Cilium '1.2'", "1.20"),
        ("--hubble=requir", "--hubble: unknown value 'requir'", "did you mean `require`?"),
        ("--timeout=soon", "--timeout: 'soon' is no time-out", "a number of seconds"),
        ("--timeout=-1", "--timeout: '-1' is no time-out", "a number of seconds"),
        ("--image-pull-policy=always", "--image-pull-policy: unknown pull policy 'always'", "did you mean `Always`?"),
        ("--image-pull-secret=a/b/c", "--image-pull-secret: 'a/b/c' names no secret", "NAMESPACE/NAME"),
        ("--toleration=a=b:NoSchedul", "--toleration: 'a=b:NoSchedul': unknown effect 'NoSchedul'", "did you mean `NoSchedule`?"),
        ("--toleration==b", "--toleration: '=b' is no toleration", "KEY=VALUE:EFFECT"),
        ("--externals=none.yaml", "--externals: none.yaml cannot be read: No such file or directory", "write `NAME:"),
        ("--node-selector=pool", "--node-selector: 'pool' selects no node", "KEY=VALUE"),
        ("--hubble-listen=nowhere", "--hubble-listen: 'nowhere' is no address to listen at", "HOST:PORT"),
    ],
)
def test_a_wrong_value_says_what_is_known(args, message, hint, resolved):
    with pytest.raises(UsageError) as error:
        resolved(args)
    assert error.value.message == message
    assert hint in error.value.hint


def test_what_may_be_given_several_times_adds_up(resolved):
    options = resolved("--toleration=a=b", "--toleration=c:NoExecute,d")
    assert options.toleration == "a=b,c:NoExecute,d"
    assert options.repeat == ("--toleration=a=b,c:NoExecute,d",)


def test_a_wrong_value_names_the_environment_variable_or_the_ini_key_it_came_from(resolved):
    with pytest.raises(UsageError, match="environment variable HARNESS_CLUSTER: unknown cluster 'lab'"):
        resolved(environment={"HARNESS_CLUSTER": "lab"})
    with pytest.raises(UsageError, match="ini harness_hubble: unknown value 'on'"):
        resolved(ini="harness_hubble = on")


def test_a_report_cannot_be_a_folder(suite, resolved):
    suite.path.joinpath("out").mkdir()
    with pytest.raises(UsageError, match="--harness-html: out is a folder"):
        resolved("--harness-html=out")


@pytest.mark.parametrize("report", ["html", "jsonl"])
def test_a_report_that_cannot_be_written_is_said_before_the_run(suite, resolved, report):
    suite.path.joinpath("notes").write_text("")
    for path, why in (("notes/report", "notes is no folder"), ("x" * 300, "File name too long")):
        with pytest.raises(UsageError, match=f"--harness-{report}: {path} cannot be written: .*{why}"):
            resolved(f"--harness-{report}={path}")
    resolved(f"--harness-{report}=new/folder/report")
    assert not suite.path.joinpath("new").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("path", ["locked/report.html", "locked/new/report.html", "locked.html"])
def test_a_report_where_nothing_may_be_written_is_said_before_the_run(suite, resolved, path):
    suite.path.joinpath("locked").mkdir(0o500)
    suite.path.joinpath("locked.html").touch(0o400)
    with pytest.raises(UsageError, match=f"--harness-html: {path} cannot be written: no permission for .*locked"):
        resolved(f"--harness-html={path}")


def test_a_port_alone_is_listened_at_on_this_machine_only(resolved):
    assert resolved("--hubble-listen=4245").hubble_listen == "localhost:4245"


def test_the_command_to_repeat_a_test_carries_what_a_fresh_shell_would_not_know(resolved):
    options = resolved("--hubble=off", "--timeout=2", ini="harness_cilium_version = 1.19", environment={"HARNESS_CLUSTER": "memory"})
    assert options.command("test_a.yaml::a case::deny") == (
        "pytest 'test_a.yaml::a case::deny' --cluster=memory --hubble=off --probe-timeout=2"
    )


def test_a_wrong_option_ends_pytest_with_a_usage_error_before_anything_is_collected(suite):
    suite.write()
    result = suite.run(cluster="memroy")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --cluster: unknown cluster 'memroy'", "*did you mean `memory`?*"])
    assert "collected" not in result.stdout.str()


def test_keep_needs_a_terminal_so_it_refuses_workers(suite):
    suite.write()
    result = suite.spawn("--keep", "-n", "2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--keep: there is one lab a worker*", "*without -n*"])


def test_pytest_timeout_keeps_its_own_option_and_ours_has_another_name(suite):
    suite.path.joinpath("pytest_timeout.py").write_text(
        "def pytest_addoption(parser):\n    parser.getgroup('timeout').addoption('--timeout', type=float, default=7.0)\n"
    )
    suite.write()
    suite.pytester.syspathinsert(suite.path)
    result = suite.spawn("-p", "pytest_timeout", "--timeout=5", "--probe-timeout=2", "--collect-only", "-q")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["test_walk.yaml::only the client reaches the backend::baseline"])


def test_help_lists_the_options_with_their_settings(suite):
    result = suite.run("--help", cluster=None)
    result.stdout.fnmatch_lines([
        "network policy cases (test_*",
        "*--cluster=NAME*",
        "*--keep*",
        "*harness_cluster (string)*",
        "*HARNESS_CLUSTER*",
    ])


def test_what_a_shared_cluster_must_be_allowed_is_off_unless_said(resolved):
    assert not resolved().allow_host
    assert not resolved().allow_clusterwide
    options = resolved("--allow-host", "--allow-clusterwide")
    assert (options.allow_host, options.allow_clusterwide) == (True, True)
    assert options.repeat == ("--allow-host", "--allow-clusterwide")
