/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Verdicts and actions as the kernel sees them: the public header for your own TC and XDP
 * programs. docs/policy.md explains it, examples/verdict_reader.bpf.c is one.
 *
 * The pinned map `verdicts` is an array of 64-bit words, one a slot; a flow's slot is
 * flow_id % max_entries. A word is written by one store, so it is never half a verdict:
 *
 *	bits 63..17	flow id: compare it, the slot may belong to a newer flow
 *	bit 16		final: no other verdict will follow, nor are more packets copied
 *	bits 15..8	action, an index into the pinned map `actions`; 0: none
 *	bits 7..0	class + 1; 0: the model does not know the flow
 *
 * Classes count from 0 in the order of `etcpipe model show`.
 */
#ifndef ETCPIPE_VERDICT_H
#define ETCPIPE_VERDICT_H

#include <linux/types.h>

#define VERDICT_FLOW_SHIFT 17
#define VERDICT_FINAL 0x10000
#define VERDICT_ACTION_SHIFT 8
#define VERDICT_CLASS_MAX 255	/* in bits 7..0: classes beyond 253 share it */
#define VERDICT_FLOW_ID_MASK 0x7fffffffffff

#define ACTIONS_MAX 256		/* entry 0 stays empty */
#define ACTION_PRIORITY 1	/* bits of struct action's flags: which fields are set */
#define ACTION_MARK 2
#define ACTION_CLASSID 4
#define ACTION_DSCP 8
#define ACTION_DROP 16

/* What is done to each packet of a flow. */
struct action {
	__u32 flags;		/* ACTION_*, 0: nothing */
	__u32 priority;		/* skb->priority, an HTB class as major << 16 | minor */
	__u32 mark;		/* skb->mark = (skb->mark & ~mark_mask) | mark */
	__u32 mark_mask;
	__u16 classid;		/* minor of skb->tc_classid and skb->tc_index */
	__u8 dscp;		/* 0 .. 63 */
	__u8 pad;
};

/* Where the flow's verdict is; @slots is a constant, mostly a power of two: no division then. */
static inline __attribute__((always_inline)) __u32 verdict_slot(__u64 flow_id, __u64 slots)
{
	return slots & (slots - 1) ? flow_id % slots : flow_id & (slots - 1);
}

/* The word if it is this flow's, else 0: no verdict, or of another flow. */
static inline __attribute__((always_inline)) __u64 verdict_of(__u64 word, __u64 flow_id)
{
	return word >> VERDICT_FLOW_SHIFT == (flow_id & VERDICT_FLOW_ID_MASK) ? word : 0;
}

/* The class, or -1. */
static inline __attribute__((always_inline)) int verdict_class(__u64 word)
{
	return (int)(word & VERDICT_CLASS_MAX) - 1;
}

static inline __attribute__((always_inline)) __u32 verdict_action(__u64 word)
{
	return word >> VERDICT_ACTION_SHIFT & (ACTIONS_MAX - 1);
}

/* Is it the flow's last word? An early answer of a cascade may be revised. */
static inline __attribute__((always_inline)) int verdict_is_final(__u64 word)
{
	return (word & VERDICT_FINAL) != 0;
}

#endif /* ETCPIPE_VERDICT_H */
