"""A policy's HTB tree: what its file must say, and the tc commands that it comes to."""

import shlex

import numpy as np
import pytest
from command import ROOT, run

from etcpipe import model as models
from etcpipe.errors import UsageError
from etcpipe.layout import VERDICT_CONSTANTS
from etcpipe.policy import rules as policies
from etcpipe.policy.apply import fitted
from etcpipe.policy.change import change
from etcpipe.policy.rules import verdict_words

TREE = """
[tree]
rate = "100mbit"
default = "normal"
[tree.class.normal]
id = "1:10"
rate = "90mbit"
prio = 1
[tree.class.bulk]
id = "1:2a"
rate = "500kbit"
ceil = "1.5mbit"
"""
RULE = '[[rule]]\nclass = "web"\naction = {priority = "1:2a"}\n'
COMMANDS = """
tc qdisc add dev eth0 root handle 1: htb default 10
tc class add dev eth0 parent 1: classid 1:fffe htb rate 100000000bit ceil 100000000bit quantum 60000
tc class add dev eth0 parent 1:fffe classid 1:10 htb rate 90000000bit ceil 100000000bit \
quantum 60000 prio 1
tc qdisc add dev eth0 parent 1:10 fq_codel
tc class add dev eth0 parent 1:fffe classid 1:2a htb rate 500000bit ceil 1500000bit \
quantum 6250 prio 3
tc qdisc add dev eth0 parent 1:2a fq_codel
"""
EXAMPLES = sorted((ROOT / "examples" / "policies").glob("*.toml"))


def test_a_tree_comes_to_these_commands():
    tree = policies.parse(TREE + RULE).tree
    assert [shlex.join(one) for one in tree.commands("eth0")] == COMMANDS.strip().splitlines()


@pytest.mark.parametrize(
    "wanted, there, leaf",
    [
        ("fq_codel", {"fq_codel", "sfq"}, "fq_codel"),
        ("fq_codel", {"sfq"}, "sfq"),
        ("fq_codel", {}, "pfifo"),
        ("sfq", {"fq_codel"}, "pfifo"),
        ("pfifo", {"fq_codel", "sfq"}, "pfifo"),
    ],
)
def test_a_kernel_without_a_queue_takes_the_next_one(wanted, there, leaf):
    asked = policies.parse(TREE.replace("[tree]", f'[tree]\nleaf = "{wanted}"', 1) + RULE)
    made = fitted(asked, has=there.__contains__)
    assert (made.tree.leaf, made.rules) == (leaf, asked.rules)
    commands = [shlex.join(one) for one in made.tree.commands("eth0")]
    leaves = [one.split()[-1] for one in commands if one.split()[1] == "qdisc"][1:]
    assert leaves == ([] if leaf == "pfifo" else [leaf, leaf])


@pytest.mark.parametrize(
    "old, new, message",
    [
        ('rate = "90mbit"', 'rate = "99.9mbit"', "promised 100.4mbit of 100mbit"),
        ('rate = "90mbit"', 'rate = "90"', "[tree.class.normal] rate is '90'"),
        ("[tree]", '[tree]\nleaf = "red"', "leaf is 'red', must be one of fq_codel, sfq, pfifo"),
        ("1:2a", "1:10", "ids must be different"),
        ("1:2a", "2:2a", "begin alike"),
        ("1:2a", "1:fffe", "[tree.class.bulk] id is '1:fffe'"),
        ("prio = 1", "prio = 8", "prio is 8, must be 0 to 7"),
        ("prio = 1", "priority = 1", "unknown key 'priority' (did you mean prio?)"),
        ('default = "normal"', 'default = "normol"', "(did you mean normal?)"),
        ('ceil = "1.5mbit"', 'ceil = "1kbit"', "rate 500kbit must not exceed ceil 1kbit"),
        ('ceil = "1.5mbit"', 'ceil = "1gbit"', "nor that the tree's 100mbit"),
    ],
)
def test_a_fault_in_a_tree_is_named(old, new, message):
    text = TREE.replace(old, new, 1)
    with pytest.raises(UsageError) as caught:
        policies.parse(text + RULE, "p.toml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("p.toml: [tree")


def test_a_rule_for_a_class_that_the_tree_lacks_is_refused():
    with pytest.raises(UsageError, match=r"no class 1:2b in \[tree\] \(there are 1:10 normal"):
        policies.parse(TREE + RULE.replace("1:2a", "1:2b"))
    policies.parse(TREE + RULE.replace("1:2a", "2:2b"))  # of somebody else's tree


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_fit_the_model_that_ships(path):
    assert len(EXAMPLES) == 3
    policy = policies.load(path)
    assert all(row["classes"] for row in policy.describe(models.load().labels))
    run("policy", "check", path, check=0)


def test_flows_keep_what_a_rule_does_that_both_policies_have():
    first, second = (f'[[rule]]\nclass = "{name}"\naction = {{mark = 1}}\n' for name in "ab")
    words = verdict_words(np.arange(1, 4, dtype=np.uint64), np.zeros(3), np.array([0, 1, 2]))
    others = words & ~np.uint64((VERDICT_CONSTANTS["ACTIONS_MAX"] - 1) << 8)
    seen = []

    def put(actions):
        seen.append((words >> np.uint64(8) & np.uint64(255)).tolist())

    change(words, policies.parse(first + second), policies.parse(second + first + RULE), put)
    assert (words >> np.uint64(8) & np.uint64(255)).tolist() == [0, 2, 1]
    change(words, policies.parse(second + first), policies.parse(first), put)
    assert (words >> np.uint64(8) & np.uint64(255)).tolist() == [0, 1, 0]
    change(words, policies.parse(first), None, put)
    assert words.tolist() == others.tolist()
    # while actions are put in place, no number means the wrong one
    assert seen == [[0, 0, 0], [0, 0, 0], [0, 0, 0]]
