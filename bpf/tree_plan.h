/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * A small ensemble of trees in whole numbers, as etcpipe/kernel/stage0_trees.py makes it of
 * a model file and tree.h walks it. Declarations alone, so that etcpipe/layout.py reads them.
 */
#ifndef ETCPIPE_TREE_PLAN_H
#define ETCPIPE_TREE_PLAN_H

#include "etcpipe.h"

#define TREE_NODES_MAX 1024
#define TREE_INPUTS_MAX 32
#define TREE_CLASSES_MAX 16
#define TREE_STEPS_MAX 512	/* nodes on the longest way through all trees */
#define TREE_END 0xffff		/* behind the last tree's leaf */
#define TREE_FRACTION 13	/* bits behind the point of a limit */
#define TREE_POWERS 256		/* of 2 ** -(i / 256) */

/* Where an input's value comes from. */
enum tree_value {
	TREE_WORD,		/* words[at] */
	TREE_FLAG,		/* byte `to` of words[at] and words[at + 1], added */
	TREE_PACKETS,		/* of a direction */
	TREE_PROTOCOL,
	TREE_PORT,		/* side 0: of the initiator */
	TREE_DURATION,		/* ns */
	TREE_BETWEEN,		/* ns from words[at] to words[to], missing if there is no end */
};

/* Of how many packets a value is; it is missing if of none. */
enum tree_count {
	TREE_OF_FLOW,		/* never missing */
	TREE_OF_PACKETS,
	TREE_OF_GAPS,
	TREE_OF_TCP,		/* packets, none but in TCP */
};

struct tree_input {
	__u8 value;		/* enum tree_value */
	__u8 count;		/* enum tree_count */
	__u8 is_mean;		/* the value is to be divided by the count */
	__u8 side;
	__u8 at;
	__u8 to;
	__u8 pad[2];
};

#define TREE_LEAF 1		/* in a node's kind */
#define TREE_MISSING_YES 2	/* a missing value takes `yes` */

/*
 * A branch takes `yes` where value << TREE_FRACTION < limit * count. A leaf adds its limit,
 * signed and in units of 2 ** -32, to the score of class `input` and goes on at `yes`.
 */
struct tree_node {
	__u64 limit;
	__u16 yes;
	__u16 no;
	__u8 input;
	__u8 kind;
	__u8 pad[2];
};

/*
 * Scores are to base 2. The best class's probability is 1 / the sum of 2 ** (score - best score)
 * over all classes; the flow is sure where that sum, in units of 2 ** -32, is at most `most`.
 */
struct tree {
	__u32 inputs_used;
	__u32 classes_used;
	__u64 most[TREE_CLASSES_MAX];
	__u64 powers[TREE_POWERS];	/* in units of 2 ** -31 */
	__u16 verdict[TREE_CLASSES_MAX];	/* low half of the word in bpf/verdict.h */
	struct tree_input inputs[TREE_INPUTS_MAX];
	struct tree_node nodes[TREE_NODES_MAX];
};

/* What a walk works with. */
struct tree_work {
	__u64 values[TREE_INPUTS_MAX];
	__u64 counts[TREE_INPUTS_MAX];
	__u64 scores[TREE_CLASSES_MAX];	/* two's complement */
	__u64 top;		/* the best of them */
	__u64 sum;
};

#endif /* ETCPIPE_TREE_PLAN_H */
