"""`harness diff` on files and in real git repositories: what it tells, its exit codes and mistakes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from harness.cli.main import main

WORKLOADS = """\
kind: List
items:
  - {kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}}}
  - {kind: Pod, metadata: {name: api, namespace: shop, labels: {app: api}}}
  - {kind: Pod, metadata: {name: db, namespace: shop, labels: {app: db}}}
  - {kind: Pod, metadata: {name: web, namespace: dev, labels: {app: web}}}
"""
HEAD = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: api, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: api}}
  ingress:
"""
FROM_WEB = "    - {fromEndpoints: [{matchLabels: {app: web}}], toPorts: [{ports: [{port: '8080', protocol: TCP}]RULES}]}\n"
PLAIN = HEAD + FROM_WEB.replace("RULES", "")
ONLY_A = HEAD + FROM_WEB.replace("RULES", ", rules: {http: [{method: GET, path: '/a|b'}]}")
A_AND_C = HEAD + FROM_WEB.replace("RULES", ", rules: {http: [{method: GET, path: '/a|b'}, {path: /c}]}")
MORE = PLAIN + "    - {fromEndpoints: [{matchLabels: {app: db}}]}\n"
AUTHENTICATED = HEAD + FROM_WEB.replace("}]RULES}]}", "}]}], authentication: {mode: required}}")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "workloads.yaml").write_text(WORKLOADS)
    monkeypatch.chdir(tmp_path)
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def run(*words: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, ["diff", *words], input=stdin)


def ask(old: str, new: str, *more: str) -> Result:
    Path("old.yaml").write_text(old)
    Path("new.yaml").write_text(new)
    return run("old.yaml", "new.yaml", "-f", "workloads.yaml", *more)


def git(*words: str) -> None:
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false", *words],
        check=True,
        capture_output=True,
    )


@pytest.fixture
def repository(folder: Path) -> Path:
    """A branch `main` with one policy of two, and a commit behind it with the other, both with a file that is no manifest."""
    policies = folder / "policies" / "shop"
    policies.mkdir(parents=True)
    (policies / "api.yaml").write_text(PLAIN)
    (policies / "README.md").write_text("{ no YAML")
    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    git("switch", "-q", "-c", "change")
    (policies / "api.yaml").write_text(MORE)
    git("commit", "-q", "-a", "-m", "two")
    return folder


def test_a_flow_that_becomes_allowed_is_one_line() -> None:
    result = ask(PLAIN, MORE)
    assert (result.exit_code, result.output) == (1, "+ shop/db -> shop/api  everything\n\n1 newly allowed\n")


def test_a_flow_that_becomes_denied_is_one_line() -> None:
    result = ask(MORE, PLAIN)
    assert (result.exit_code, result.output) == (1, "- shop/db -> shop/api  everything\n\n1 no longer allowed\n")


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (PLAIN, ONLY_A, "- shop/web -> shop/api  TCP 8080  only GET /a|b (was: allowed)"),
        (ONLY_A, A_AND_C, "+ shop/web -> shop/api  TCP 8080  only GET /a|b or /c (was: only GET /a|b)"),
        (A_AND_C, ONLY_A, "- shop/web -> shop/api  TCP 8080  only GET /a|b (was: only GET /a|b or /c)"),
        (ONLY_A, ONLY_A.replace("GET", "PUT"), "~ shop/web -> shop/api  TCP 8080  only PUT /a|b (was: only GET /a|b)"),
        (PLAIN, AUTHENTICATED, "- shop/web -> shop/api  TCP 8080  denied without mutual authentication (was: allowed)"),
    ],
)
def test_requests_and_authentication_are_told(old: str, new: str, line: str) -> None:
    result = ask(old, new)
    assert result.exit_code == 1
    assert result.output.splitlines()[0] == line


def test_nothing_changes_where_policies_are_written_otherwise() -> None:
    result = ask(PLAIN, PLAIN.replace("name: api,", "name: other,"))
    assert (result.exit_code, result.output) == (0, "nothing changes: 4 workloads are reached, and reach others, as before\n")


def test_markdown_lists_the_changes_and_folds_the_table() -> None:
    result = ask(PLAIN, A_AND_C, "-o", "markdown")
    assert result.exit_code == 1
    assert "**1 no longer allowed** (from `old.yaml` to `new.yaml`)" in result.output
    assert "- `shop/web` → `shop/api` TCP 8080: `only GET /a|b or /c (was: allowed)`" in result.output
    assert r"| `shop/web` | `shop/api` | `TCP 8080` | `allowed` | `only GET /a\|b or /c` |" in result.output
    assert result.output.rstrip().endswith("</details>")


def test_markdown_of_many_changes_fits_a_comment() -> None:
    rules = [
        f"    - {{fromEndpoints: [{{matchLabels: {{app: web}}}}], toPorts: [{{ports: [{{port: '{port}'}}], rules: {{http: [{{path: /{port}}}]}}}}]}}"
        for port in range(1, 200)
    ]
    result = ask(PLAIN, HEAD + "\n".join(rules).replace("'}]", "', protocol: TCP}]"), "-o", "markdown")
    assert result.exit_code == 1
    assert "more" in result.output
    assert len(result.output) < 65_536


def test_json_has_each_peer_and_port() -> None:
    told: dict[str, Any] = json.loads(ask(PLAIN, MORE.replace("app: db", "app: web"), "-o", "json").stdout)
    (change,) = told["changes"]
    assert (change["effect"], change["before"]["reach"], change["after"]["reach"]) == ("allowed", "deny", "allow")
    assert (change["sources"], change["targets"]) == (["shop/web"], ["shop/api"])
    assert {"protocol": "TCP", "first": 8081, "last": 65535} in change["ports"]
    assert {"protocol": "TCP", "first": 8080, "last": 8080} not in change["ports"]


def test_colours_are_for_terminals_only() -> None:
    assert "\x1b" not in ask(PLAIN, MORE).output


@pytest.mark.parametrize(
    "words",
    [
        ("main", "change", "-p", "policies"),
        ("main", "HEAD", "-p", "policies/shop/api.yaml"),
        ("main:policies", "change:policies/"),
        ("main:policies/", "policies"),
        ("HEAD~1", "HEAD", "-p", "./policies/shop", "-p", "policies"),
    ],
)
@pytest.mark.usefixtures("repository")
def test_revisions_are_compared(words: tuple[str, ...]) -> None:
    result = run(*words, "-f", "workloads.yaml")
    assert (result.exit_code, result.output) == (1, "+ shop/db -> shop/api  everything\n\n1 newly allowed\n")


def test_paths_are_those_of_the_working_directory(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository / "policies")
    for words in (("main", "HEAD", "-p", "shop"), ("main:policies/shop", "HEAD:./shop")):
        assert run(*words, "-f", "../workloads.yaml").exit_code == 1


def test_what_is_not_committed_is_in_no_revision(repository: Path) -> None:
    (repository / "policies/shop/api.yaml").write_text("{ no YAML")
    (repository / "policies/shop/new.yaml").write_text("{ no YAML")
    assert run("change", "HEAD", "-p", "policies", "-f", "workloads.yaml").exit_code == 0


def test_a_folder_that_only_one_revision_has_is_all_new(repository: Path) -> None:
    (repository / "more").mkdir()
    (repository / "more/db.yaml").write_text(MORE.replace("app: api", "app: db"))
    git("add", "more")
    git("commit", "-q", "-m", "three")
    result = run("main", "HEAD", "-p", "more", "-f", "workloads.yaml")
    assert result.exit_code == 1
    assert "-> shop/db" in result.output


def test_an_error_in_a_revision_has_its_place(repository: Path) -> None:
    (repository / "policies/shop/api.yaml").write_text("kind: Nonsense\n")
    git("commit", "-q", "-a", "-m", "bad")
    result = run("main", "HEAD", "-p", "policies", "-f", "workloads.yaml")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: HEAD:policies/shop/api.yaml:1:7: unknown kind `Nonsense`")


def test_a_link_in_a_revision_is_refused_and_not_passed_over(repository: Path) -> None:
    (repository / "policies/link.yaml").symlink_to("shop/api.yaml")
    git("add", "policies")
    git("commit", "-q", "-m", "link")
    result = run("main", "HEAD", "-p", "policies", "-f", "workloads.yaml")
    assert result.exit_code == 2
    assert "HEAD:policies/link.yaml is a symbolic link" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere", "policies"), "there is no file, folder or revision nowhere"),
        (("main", "policies"), "main is a revision, and a path is missing"),
        (("mian", "HEAD", "-p", "policies"), "git knows no revision mian here"),
        (("main", "HEAD", "-p", "polices"), "there is no manifest in polices, in neither main nor HEAD"),
        (("main:polices", "policies"), "there is no manifest in polices, in main"),
        (("main", "HEAD", "-p", ".."), "outside of the git repository"),
        (("-", "-"), "standard input can be read only once"),
    ],
)
@pytest.mark.usefixtures("repository")
def test_mistakes_are_one_error_and_exit_code_2(words: tuple[str, ...], message: str) -> None:
    result = run(*words, "-f", "workloads.yaml")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert message in result.stderr


def test_a_policy_among_the_workloads_would_be_on_both_sides_and_is_refused() -> None:
    Path("old.yaml").write_text(PLAIN)
    Path("new.yaml").write_text(MORE)
    result = run("old.yaml", "new.yaml", "-f", ".")
    assert result.exit_code == 2
    assert "this is a policy, and -f is for workloads" in result.stderr


def test_without_workloads_there_is_nothing_to_tell() -> None:
    Path("old.yaml").write_text(PLAIN)
    result = run("old.yaml", "old.yaml")
    assert result.exit_code == 2
    assert "no workload that both sides have" in result.stderr


def test_workloads_of_one_side_are_told_and_not_compared() -> None:
    pod = "---\n{kind: Pod, metadata: {name: extra, namespace: shop, labels: {app: web}}}\n"
    result = ask(PLAIN, MORE + pod)
    assert result.output == "+ shop/db -> shop/api  everything\n\nonly in new.yaml, not compared: shop/extra\n1 newly allowed\n"


def test_a_policy_that_is_refused_is_told() -> None:
    result = ask(PLAIN, PLAIN.replace("'8080'", "'99999'"), "-o", "markdown")
    assert result.exit_code == 1
    assert "is refused, nothing of it is enforced" in result.stderr
    assert "is refused, nothing of it is enforced" in result.stdout
