/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * A flow judged by trees on its features: branches compare whole numbers, leaves add up to
 * scores, and the best class is sure or not. For the kernel and for user space, which checks
 * that both say what the model's own engine says.
 */
#ifndef ETCPIPE_TREE_H
#define ETCPIPE_TREE_H

#include "feature_words.h"
#include "tree_plan.h"

#define LN2_Q32 2977044471ull	/* ln 2 in units of 2 ** -32 */
#define TREE_FAR 40		/* 2 ** -40 and below add nothing */

static __always_inline __u64 bits_set(__u64 x)
{
	x -= x >> 1 & 0x5555555555555555ull;
	x = (x & 0x3333333333333333ull) + (x >> 2 & 0x3333333333333333ull);
	x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0full;
	return x * 0x0101010101010101ull >> 56;
}

static __always_inline __u64 tree_word(struct feature_entry *entry, PLAN *plan, __u64 at)
{
	OPAQUE(at);
	return at < plan->pairs ? feature_words(entry)[at] : 0;
}

static __always_inline __u64 tree_duration(const struct feature_entry *entry)
{
	__u64 last = entry->last_ns[entry->ranks[1] > entry->ranks[0] ? 1 : 0];

	return (long long)(last - entry->first_ns) > 0 ? last - entry->first_ns : 0;
}

static __always_inline __u64 tree_between(__u64 start, __u64 end)
{
	return (long long)(end - start) > 0 ? end - start : 0;
}

static __always_inline __u64 tree_value(struct feature_entry *entry, PLAN *plan,
					const struct tree_input *in)
{
	__u32 shift = (in->to & 7) * 8;

	switch (in->value) {
	case TREE_WORD:
		return tree_word(entry, plan, in->at);
	case TREE_FLAG:
		return (tree_word(entry, plan, in->at) >> shift & 0xff) +
		       (tree_word(entry, plan, in->at + 1) >> shift & 0xff);
	case TREE_PACKETS:
		return bits_set(in->side ? entry->ranks[1] : entry->ranks[0]);
	case TREE_PROTOCOL:
		return entry->key.protocol;
	case TREE_PORT:
		return NET16(in->side != entry->initiator ? entry->key.b_port : entry->key.a_port);
	case TREE_DURATION:
		return tree_duration(entry);
	case TREE_BETWEEN:
		return tree_between(tree_word(entry, plan, in->at),
				    tree_word(entry, plan, in->to));
	}
	return 0;
}

/* Of how many packets the input is, 0 where it is missing. */
static __always_inline __u64 tree_count(struct feature_entry *entry, PLAN *plan,
					const struct tree_input *in)
{
	__u64 n = bits_set(in->side ? entry->ranks[1] : entry->ranks[0]);

	if (in->value == TREE_BETWEEN)
		return tree_word(entry, plan, in->to) != 0;
	if (in->count == TREE_OF_FLOW)
		return 1;
	if (in->count == TREE_OF_GAPS)
		n = n ? n - 1 : 0;
	else if (in->count == TREE_OF_TCP && entry->key.protocol != IPPROTO_TCP)
		n = 0;
	return in->is_mean || !n ? n : 1;
}

static __always_inline void tree_inputs(struct feature_entry *entry, PLAN *plan,
					const struct tree *tree, struct tree_work *work)
{
	__u32 i;

NO_UNROLL
	for (i = 0; i < TREE_INPUTS_MAX; i++) {
		OPAQUE(i);
		if (i >= tree->inputs_used)
			break;
		work->values[i] = tree_value(entry, plan, &tree->inputs[i]);
		work->counts[i] = tree_count(entry, plan, &tree->inputs[i]);
	}
NO_UNROLL
	for (i = 0; i < TREE_CLASSES_MAX; i++) {
		OPAQUE(i);
		work->scores[i] = 0;
	}
}

static __always_inline int tree_takes_yes(const struct tree_node *node,
					  const struct tree_work *work)
{
	__u64 input = node->input & (TREE_INPUTS_MAX - 1), count;

	OPAQUE(input);
	count = work->counts[input];
	if (!count)
		return node->kind & TREE_MISSING_YES;
	return work->values[input] << TREE_FRACTION < node->limit * count;
}

/* Go through all trees, one behind the other. */
static __always_inline void tree_walk(const struct tree *tree, struct tree_work *work)
{
	__u64 at = 0, class;
	__u32 i;

NO_UNROLL
	for (i = 0; i < TREE_STEPS_MAX; i++) {
		const struct tree_node *node;

		OPAQUE(i);
		OPAQUE(at);
		if (at >= TREE_NODES_MAX)
			break;
		node = &tree->nodes[at];
		if (!(node->kind & TREE_LEAF)) {
			at = tree_takes_yes(node, work) ? node->yes : node->no;
			continue;
		}
		class = node->input & (TREE_CLASSES_MAX - 1);
		OPAQUE(class);
		work->scores[class] += node->limit;
		at = node->yes;
	}
}

/* 2 ** -x in units of 2 ** -32, of x in the same units; right within 2 ** -27 of it. */
static __always_inline __u64 tree_power(const struct tree *tree, __u64 x)
{
	__u64 whole = x >> 32, i = x >> 24 & (TREE_POWERS - 1), rest, factor;

	if (whole >= TREE_FAR)
		return 0;
	OPAQUE(i);
	rest = (x & 0xffffff) * LN2_Q32 >> 32;
	factor = (1ull << 32) - rest + (rest * rest >> 33);
	return tree->powers[i & (TREE_POWERS - 1)] * factor >> 31 >> whole;
}

/* The best class, and the sum of all classes' powers to it; in memory: see tree_judge(). */
static __always_inline void tree_best(struct feature_entry *entry, const struct tree *tree,
				      struct tree_work *work)
{
	__u32 i;

	work->top = work->scores[0];
	work->sum = 0;
	entry->class = 0;
NO_UNROLL
	for (i = 1; i < TREE_CLASSES_MAX; i++) {
		OPAQUE(i);
		if (i < tree->classes_used && (long long)(work->scores[i] - work->top) > 0) {
			work->top = work->scores[i];
			entry->class = i;
		}
	}
NO_UNROLL
	for (i = 0; i < TREE_CLASSES_MAX; i++) {
		OPAQUE(i);
		if (i < tree->classes_used)
			work->sum += tree_power(tree, work->top - work->scores[i]);
	}
	entry->sum = work->sum;
}

/*
 * Judge a flow by what its entry holds: note the class and the sum that its probability is 1
 * over. Returns whether it is sure. What loops carry on is kept in memory, of which the
 * verifier knows nothing: numbers in registers it would follow apart, each way through a loop.
 */
static __always_inline int tree_judge(struct feature_entry *entry, PLAN *plan,
				      const struct tree *tree, struct tree_work *work)
{
	__u64 class;

	tree_inputs(entry, plan, tree, work);
	tree_walk(tree, work);
	tree_best(entry, tree, work);
	class = entry->class & (TREE_CLASSES_MAX - 1);
	OPAQUE(class);
	return work->sum <= tree->most[class & (TREE_CLASSES_MAX - 1)];
}

#endif /* ETCPIPE_TREE_H */
