"""`harness lint` as a user meets it: files, exit codes, formats."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner

from harness.cli.main import main
from harness.lint.examples import manifest
from harness.lint.registry import all_rules

RULES = all_rules()
BAD = manifest(RULES["HL104"].bad)
GOOD = manifest(RULES["HL104"].good)
SARIF = {
    "type": "object",
    "required": ["version", "runs"],
    "properties": {
        "$schema": {"type": "string", "format": "uri"},
        "version": {"const": "2.1.0"},
        "runs": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["tool", "results"],
                "additionalProperties": False,
                "properties": {
                    "columnKind": {"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
                    "tool": {
                        "required": ["driver"],
                        "properties": {
                            "driver": {
                                "required": ["name"],
                                "properties": {
                                    "semanticVersion": {"type": "string", "minLength": 1},
                                    "rules": {
                                        "type": "array",
                                        "uniqueItems": True,
                                        "items": {
                                            "required": ["id"],
                                            "additionalProperties": False,
                                            "properties": {
                                                "id": {"type": "string"},
                                                "name": {"type": "string"},
                                                "shortDescription": {"$ref": "#/$defs/message"},
                                                "fullDescription": {"$ref": "#/$defs/message"},
                                                "help": {"$ref": "#/$defs/message"},
                                                "defaultConfiguration": {"properties": {"level": {"$ref": "#/$defs/level"}}},
                                            },
                                        },
                                    },
                                },
                            }
                        },
                    },
                    "results": {"type": "array", "items": {"$ref": "#/$defs/result"}},
                },
            },
        },
    },
    "$defs": {
        "level": {"enum": ["none", "note", "warning", "error"]},
        "message": {"type": "object", "required": ["text"], "properties": {"text": {"type": "string", "minLength": 1}}},
        "artifact": {"type": "object", "required": ["uri"], "properties": {"uri": {"type": "string", "pattern": r"^[^ \\]+$"}}},
        "region": {
            "type": "object",
            "required": ["startLine"],
            "properties": {key: {"type": "integer", "minimum": 1} for key in ("startLine", "startColumn", "endLine", "endColumn")},
        },
        "result": {
            "type": "object",
            "required": ["message", "ruleId", "locations"],
            "additionalProperties": False,
            "properties": {
                "ruleId": {"type": "string"},
                "ruleIndex": {"type": "integer", "minimum": 0},
                "level": {"$ref": "#/$defs/level"},
                "message": {"$ref": "#/$defs/message"},
                "locations": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "required": ["physicalLocation"],
                        "properties": {
                            "physicalLocation": {
                                "required": ["artifactLocation"],
                                "properties": {"artifactLocation": {"$ref": "#/$defs/artifact"}, "region": {"$ref": "#/$defs/region"}},
                            }
                        },
                    },
                },
                "fixes": {
                    "type": "array",
                    "items": {
                        "required": ["artifactChanges"],
                        "properties": {
                            "artifactChanges": {
                                "minItems": 1,
                                "items": {
                                    "required": ["artifactLocation", "replacements"],
                                    "properties": {
                                        "replacements": {"minItems": 1, "items": {"required": ["deletedRegion"]}},
                                    },
                                },
                            }
                        },
                    },
                },
            },
        },
    },
}
"""The members of SARIF 2.1.0 that are written, as its sections 3.13 to 3.57 require them."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lint(*args: str, stdin: str | None = None):
    return CliRunner().invoke(main, ["lint", *args], input=stdin)


def test_a_finding_has_its_place_a_caret_and_what_to_do(folder: Path):
    folder.joinpath("web.yaml").write_text(BAD)
    result = lint("web.yaml")
    assert result.exit_code == 1
    head, line, caret, fix, last = result.output.splitlines()
    assert head == "web.yaml:12:17: warning: no ports here: this element allows nothing [HL104 no-port]"
    assert line == "          toPorts: [{}]"
    assert caret == "                    ^^"
    assert fix == "  name ports, or remove `toPorts` for all"
    assert last == "1 warning in 1 policy"


def test_the_exit_code_is_0_for_nothing_and_for_info_alone(folder: Path):
    folder.joinpath("good.yaml").write_text(GOOD)
    folder.joinpath("info.yaml").write_text(manifest(RULES["HL103"].bad))
    assert lint("good.yaml").exit_code == 0
    result = lint("info.yaml")
    assert (result.exit_code, "HL103" in result.output) == (0, True)


def test_what_cannot_be_read_is_one_error_and_the_rest_is_linted(folder: Path):
    folder.joinpath("a.yaml").write_text("a: [\n")
    folder.joinpath("b.yaml").write_text(BAD)
    folder.joinpath("c.yaml").write_bytes(b"\xff\xfe")
    result = lint(".", "missing.yaml")
    assert result.exit_code == 2
    assert "HL104" in result.stdout
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert [error.split(":")[1].strip() for error in errors] == ["c.yaml", "missing.yaml", "a.yaml"]


def test_other_objects_are_passed_over_and_lists_are_read(folder: Path):
    folder.joinpath("list.yaml").write_text("kind: List\nitems:\n- kind: ConfigMap\n- " + BAD.replace("\n", "\n  ").rstrip() + "\n")
    result = lint("list.yaml")
    assert "HL104" in result.output
    assert result.output.splitlines()[-1] == "1 warning in 1 policy"


def test_rules_are_selected_and_ignored_by_id_name_and_beginning(folder: Path):
    folder.joinpath("web.yaml").write_text(BAD)
    assert lint("web.yaml", "--ignore", "HL104").exit_code == 0
    assert lint("web.yaml", "--ignore", "no-port,HL5").exit_code == 0
    assert lint("web.yaml", "--select", "HL2,HL3").exit_code == 0
    assert lint("web.yaml", "--select", "HL1").exit_code == 1
    wrong = lint("web.yaml", "--select", "HL9")
    assert (wrong.exit_code, "there is no rule 'HL9'" in wrong.output) == (2, True)


def test_standard_input_is_read():
    assert "<stdin>:12:17" in lint("-", stdin=BAD).output


def test_json_names_the_place_and_the_rule(folder: Path):
    folder.joinpath("web.yaml").write_text(BAD)
    (found,) = json.loads(lint("web.yaml", "-o", "json").stdout)
    assert found["rule"] == "HL104"
    assert (found["file"], found["line"], found["column"]) == ("web.yaml", 12, 17)
    assert found["policy"] == "CiliumNetworkPolicy/shop/web"


def test_sarif_is_what_the_standard_wants(folder: Path):
    folder.joinpath("a file.yaml").write_text(manifest(RULES["HL003"].bad))
    folder.joinpath("web.yaml").write_text(BAD)
    log = json.loads(lint(".", "-o", "sarif").stdout)
    jsonschema.validate(log, SARIF)
    (run,) = log["runs"]
    assert [each["ruleId"] for each in run["results"]] == ["HL003", "HL104"]
    assert all(run["tool"]["driver"]["rules"][each["ruleIndex"]]["id"] == each["ruleId"] for each in run["results"])
    assert run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "a%20file.yaml"
    assert run["results"][0]["fixes"]


def test_github_gets_commands_on_single_lines(folder: Path):
    folder.joinpath("web.yaml").write_text(BAD)
    (line,) = lint("web.yaml", "-o", "github").stdout.splitlines()
    assert line.startswith("::warning file=web.yaml,line=12,col=17,title=HL104 no-port::no ports here")


def test_fix_writes_the_file_and_tells_the_rest(folder: Path):
    path = folder.joinpath("web.yaml")
    path.write_bytes(("\ufeff" + manifest(RULES["HL303"].bad)).replace("\n", "\r\n").encode())
    result = lint("web.yaml", "--fix")
    assert (result.exit_code, result.stdout) == (0, "nothing found in 1 policy\n")
    assert path.read_bytes() == ("\ufeff" + manifest(RULES["HL303"].bad)).replace('"0443"', '"291"').replace("\n", "\r\n").encode()


def test_workloads_make_all_files_one_cluster(folder: Path):
    first, second = manifest(RULES["HL603"].bad).split("---\n")
    folder.joinpath("a.yaml").write_text(first)
    folder.joinpath("b.yaml").write_text(second)
    folder.joinpath("pods.yaml").write_text(RULES["HL701"].workloads)
    assert "HL603" not in lint("a.yaml", "b.yaml").output
    assert "HL603" in lint("a.yaml", "b.yaml", "-f", "pods.yaml").output


def test_ranges_of_addresses_are_the_users(folder: Path):
    folder.joinpath("web.yaml").write_text(manifest("ingress:\n  - fromCIDR: [172.20.0.7/32, 172.16.0.0/12]\n"))
    assert lint("web.yaml").exit_code == 0
    output = lint("web.yaml", "--pod-cidr", "172.20.0.0/16").output
    assert "172.20.0.7/32 lies in the pods' range" in output
    assert "172.16.0.0/12 covers the pods' range" in output
    assert lint("web.yaml", "--pod-cidr", "172.20").exit_code == 2


def test_the_shipped_manifests_have_findings_only_where_they_are_traps():
    root = Path(__file__).parents[2] / "fixtures/manifests"
    found = {Path(each["file"]).parent.name for each in json.loads(lint(str(root), "-o", "json").stdout) if each["severity"] != "info"}
    assert {"default-deny", "selectors", "traps"} <= found <= {"default-deny", "selectors", "traps", "l7", "dns", "host-firewall"}
