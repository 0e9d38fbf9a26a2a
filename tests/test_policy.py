"""The policy file: what it means, and what is said where it is wrong."""

import numpy as np
import pytest
from command import run

from etcpipe.errors import UsageError
from etcpipe.policy import action as policy_action
from etcpipe.policy import rules as policy
from etcpipe.policy.rules import Decider, parse, verdict_words

CLASSES = ("https_bulk", "https_page", "ssh", "unknown")

THREE = """
[[rule]]
class = "https_bulk"
min_probability = 0.9
action = {priority = "1:20", mark = "0x20/0xff"}

[[rule]]   # what is left of HTTPS
class = "https*"
action = {dscp = "CS1"}

[[rule]]
class = "unknown"
action = {drop = true}
"""


def rule(action: str, before: str = 'class = "ssh"') -> str:
    return f"[[rule]]\n{before}\naction = {action}\n"


def action_of(text: str) -> np.ndarray:
    return parse(rule(text)).rules[0].action


def test_the_first_rule_that_holds_decides():
    decide = parse(THREE).decider(CLASSES)
    label = np.array([0, 0, 1, 2, -1, 3])
    probability = np.array([0.95, 0.5, 0.5, 0.99, 0.2, 0.9], np.float32)
    assert decide(label, probability).tolist() == [1, 2, 2, 0, 3, 3]


def test_a_probability_at_the_minimum_holds():
    decide = parse(THREE).decider(CLASSES)
    assert decide(np.array([0]), np.array([0.9], np.float32)).tolist() == [1]


def test_a_glob_never_means_unknown():
    decider = parse(rule("{drop = true}", 'class = "*"')).decider(CLASSES)
    assert decider(np.array([2, 3, -1]), np.ones(3, np.float32)).tolist() == [1, 0, 0]


def test_no_verdicts_no_actions():
    assert parse(THREE).decider(CLASSES)(np.zeros(0, int), np.zeros(0, np.float32)).tolist() == []


def test_actions_are_numbered_as_rules_are():
    actions = parse(THREE).actions()
    assert [policy_action.text(action) for action in actions] == [
        {},
        {"priority": "1:20", "mark": "0x20/0xff"},
        {"dscp": "CS1"},
        {"drop": True},
    ]


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ('{priority = "1:20"}', "priority", 0x10020),
        ('{priority = "ffff:a"}', "priority", 0xFFFF000A),
        ("{priority = 6}", "priority", 6),
        ('{mark = "0x20/0xff"}', "mark", 0x20),
        ('{mark = "0x20/0xff"}', "mark_mask", 0xFF),
        ("{mark = 7}", "mark_mask", 0xFFFFFFFF),
        ('{classid = "1:2f"}', "classid", 0x2F),
        ('{dscp = "EF"}', "dscp", 46),
        ('{dscp = "af41"}', "dscp", 34),
        ('{dscp = "CS1"}', "dscp", 8),
        ("{dscp = 63}", "dscp", 63),
    ],
)
def test_an_action_becomes_numbers(text, field, value):
    assert action_of(text)[field] == value


def test_a_word_holds_flow_class_and_action():
    flow_id = np.array([0x6BCDEF012345, 2, 3], np.uint64)
    words = verdict_words(flow_id, np.array([4, -1, 300]), np.array([7, 255, 0], np.uint8))
    assert [hex(word) for word in words.tolist()] == ["0xd79bde02468a0705", "0x4ff00", "0x600ff"]


def test_a_word_says_whether_it_is_final():
    flow_id, label = np.array([1, 2], np.uint64), np.array([4, -1])
    words = verdict_words(flow_id, label, np.zeros(2, np.uint8), np.array([False, True]))
    assert [hex(word) for word in words.tolist()] == ["0x20005", "0x50000"]


WRONG = [
    ("", "p.toml: no rules: begin each with a line [[rule]]"),
    ("rules = 1", "p.toml: unknown key 'rules' (did you mean rule?)"),
    ("[[rule]", "p.toml: Expected ']]' at the end of an array declaration (at line 1, column 7)"),
    ("[[rule]]\naction = {drop = true}", "p.toml:1: the rule has no class"),
    ('[[rule]]\nclass = "ssh"', "p.toml:1: the rule has no action"),
    (
        rule("{prority = 1}"),
        "p.toml:3: unknown key 'prority' (did you mean priority?)",
    ),
    (
        rule("{drop = true}", 'class = "ssh"\nmin_probabilty = 1'),
        "p.toml:3: unknown key 'min_probabilty' (did you mean min_probability?)",
    ),
    (
        rule("{drop = true}", 'class = "ssh"\nmin_probability = 90'),
        "p.toml:3: min_probability is 90, must be 0 to 1",
    ),
    (
        rule("{drop = true}", "class = 3"),
        'p.toml:2: class must be a name or a list of names, as "https_bulk"',
    ),
    (rule("{drop = true}", 'class = ["a", 3]'), "p.toml:2: 3 is no name of a class"),
    (rule("{}"), 'p.toml:3: action must say what to do, as {priority = "1:20"}'),
    (rule("{drop = true, dscp = 1}"), "p.toml:3: drop goes with no other action"),
    (
        rule("{drop = false}"),
        "p.toml:3: drop can only be true: leave it out to let packets pass",
    ),
    (
        rule('{dscp = "CS11"}'),
        "p.toml:3: dscp is 'CS11', must be a name as CS1, or 0 to 63 (did you mean CS1?)",
    ),
    (rule("{dscp = 64}"), "p.toml:3: dscp is 64, must be a name as CS1, or 0 to 63"),
    (
        rule('{priority = "120"}'),
        "p.toml:3: priority is '120', must be major:minor as tc has it, as \"1:20\"",
    ),
    (rule("{priority = -1}"), "p.toml:3: priority is -1, must be 0 to 0xffffffff"),
    (rule("{classid = 65536}"), "p.toml:3: classid is 65536, must be 0 to 0xffff"),
    (rule('{mark = "0x100/0xff"}'), "p.toml:3: mark '0x100/0xff' has bits outside its mask"),
    (rule('{mark = "x"}'), "p.toml:3: mark is 'x', must be 0 to 0xffffffff"),
    (rule("{mark = true}"), "p.toml:3: mark is True, must be 0 to 0xffffffff"),
    (rule("{drop = true}") * 256, "p.toml: 256 rules, at most 255 are possible"),
    ("\n# a comment\n\n[[rule]]\nclass = 1", "p.toml:4: the rule has no action"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_a_mistake_is_one_line_with_its_place(text, message):
    with pytest.raises(UsageError) as caught:
        parse(text, "p.toml")
    assert str(caught.value) == message


def test_a_class_that_the_model_lacks_is_named_with_its_line():
    rules = parse('[[rule]]\nclass = ["ssh", "https_bluk"]\naction = {drop = true}', "p.toml")
    with pytest.raises(UsageError) as caught:
        rules.decider(CLASSES)
    assert str(caught.value) == (
        "p.toml:2: the model has no class 'https_bluk' (did you mean https_bulk?)"
    )


def test_rules_in_another_notation_are_taken_too():
    rules = parse('rule = [{class = "ssh", action = {dscp = 1}}]')
    assert isinstance(rules.decider(CLASSES), Decider)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(UsageError, match=r"no\.toml: No such file or directory"):
        policy.load(tmp_path / "no.toml")


def test_check_shows_what_rules_come_to(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(rule('{priority = "1:20"}', 'class = "ssh_*"') * 2)
    done = run("policy", "check", path, check=0)
    assert done.stdout.splitlines()[1].split() == (
        "1 ssh_shell, ssh_transfer >= 0 priority 1:20".split()
    )
    assert done.stderr == (
        f"etcpipe: warning: {path}:5: rule 2 never applies: earlier rules take its classes\n"
    )


def test_check_exits_with_usage(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(rule("{drop = true}", 'class = "shs_shell"'))
    done = run("policy", "check", path, check=2)
    assert done.stderr == (
        f"etcpipe: {path}:2: the model has no class 'shs_shell' (did you mean ssh_shell?)\n"
    )


@pytest.mark.parametrize(
    ("action", "options", "said"),
    [
        ("{dscp = 64}", (), "3: dscp is 64, must be a name as CS1, or 0 to 63"),
        (
            "{dscp = 1}",
            ("--forward", "b", "--mode", "xdp"),
            "2: where XDP forwards the only action is drop: use --mode tc",
        ),
    ],
)
def test_attach_refuses_a_wrong_policy_first_of_all(tmp_path, action, options, said):
    path = tmp_path / "policy.toml"
    path.write_text(rule(action))
    done = run("attach", "nosuchdevice", "--policy", path, *options, check=2)
    assert done.stderr == f"etcpipe: {path}:{said}\n"
