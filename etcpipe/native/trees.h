/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An ensemble of trees as trees.c judges by it. etcpipe/gpu/tree_plan.py reads this file, so it
 * keeps to the subset of C that etcpipe/layout.py understands, and makes the plan.
 */
#ifndef ETCPIPE_TREES_H
#define ETCPIPE_TREES_H

#include <linux/types.h>

#define TREES_CLASSES_MAX 1024
#define TREES_NUMBERS_MAX 4096
#define TREE_LEAVES_MAX 32

/* How the numbers of a row are written. */
enum trees_kind {
	TREES_FLOAT32,
	TREES_UINT8,
	TREES_INT8,
};

/* A branch: where !(number <= value), no leaf on its side of "yes" can be the flow's. */
struct tree_branch {
	__u32 value;		/* a float32's bits */
	__u32 number;		/* of those picked from a row */
	__u32 kept;		/* leaves of the tree that are left then, a bit each */
};

/* Leaves are in the order in which "yes" stands before "no": the first that is left counts. */
struct tree_leaf {
	__u32 first;		/* of its weights */
	__u32 weights;
};

struct tree_weight {
	__u32 value;		/* a float32's bits */
	__u32 target;		/* class to whose score it is added */
};

struct tree_size {
	__u32 branches;
	__u32 leaves;
};

/* Addresses of arrays that etcpipe/gpu/tree_plan.py keeps alive. */
struct tree_plan {
	__u64 picked;		/* [numbers] __u32, places in a row */
	__u64 branches;		/* of all trees */
	__u64 leaves;
	__u64 weights;
	__u64 sizes;		/* [trees] */
	__u64 base;		/* [classes] float32, added to the scores */
	__u32 numbers;
	__u32 trees;
	__u32 classes;
	__u32 kind;		/* enum trees_kind */
};

/* What a model says of a flow: columns of etcpipe.verdict.Answers. */
struct tree_answer {
	__u32 probability;	/* a float32's bits */
	__u16 label;		/* int16, as the next one; -1: unknown, none */
	__u16 runner_up;
	__u16 packets_used;
	__u16 pad;
};

#endif /* ETCPIPE_TREES_H */
