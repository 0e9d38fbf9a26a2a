/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What the kernel keeps of a flow where it gathers features (feature_words.h): a head, and words
 * of which there are only those that the model's columns need. Declarations alone, so that
 * etcpipe/layout.py reads them; etcpipe/kernel/features_plan.py makes the plan.
 */
#ifndef ETCPIPE_FEATURES_PLAN_H
#define ETCPIPE_FEATURES_PLAN_H

#include "etcpipe.h"

#define FEATURE_NONE 0xff	/* in a plan: not kept */
#define FEATURE_STATISTICS 4
#define FEATURE_PAYLOAD_SHIFT 24	/* in a word of the series of sizes */
#define FEATURE_WINDOW_SHIFT 40
#define FEATURE_TTL_SHIFT 56

/* Of what statistics are kept. */
enum feature_quantity {
	FEATURE_BYTES,		/* IP length */
	FEATURE_GAP,		/* ns since the previous packet of the same direction */
	FEATURE_WINDOW,		/* TCP only */
	FEATURE_TTL,
	FEATURE_PAYLOAD,
};

/*
 * Words come in pairs, [0] from the initiator and [1] towards it: two processors that see a
 * direction each never write the same word, so that no atomic is needed. The first ones are
 * FEATURE_STATISTICS * quantity + 0 .. 3.
 */
enum feature_word {
	FEATURE_BYTES_SUM,
	FEATURE_BYTES_SQUARES,	/* sum of squares */
	FEATURE_BYTES_MIN,
	FEATURE_BYTES_MAX,
	FEATURE_GAP_SUM,
	FEATURE_GAP_SQUARES,	/* never kept: 64 bits are too few */
	FEATURE_GAP_MIN,
	FEATURE_GAP_MAX,
	FEATURE_WINDOW_SUM,
	FEATURE_WINDOW_SQUARES,
	FEATURE_WINDOW_MIN,
	FEATURE_WINDOW_MAX,
	FEATURE_TTL_SUM,
	FEATURE_TTL_SQUARES,
	FEATURE_TTL_MIN,
	FEATURE_TTL_MAX,
	FEATURE_PAYLOAD_SUM,
	FEATURE_PAYLOAD_SQUARES,
	FEATURE_PAYLOAD_MIN,
	FEATURE_PAYLOAD_MAX,
	FEATURE_FLAGS,		/* eight counts of a byte each, the lowest flag in the lowest byte */
	FEATURE_SYN,		/* 1 + time of the first SYN, and of the SYN+ACK after it; 0: none */
	FEATURE_ACK,		/* [0]: 1 + time of the initiator's first ACK after both */
	N_FEATURE_WORDS,
};

/* Where in a flow's words each pair begins. Series have a word a rank and no direction. */
struct feature_plan {
	__u64 wait_ns;		/* a row is closed where nothing that counts came for so long */
	__u32 depth;		/* packets in a row */
	__u32 bytes;		/* of an entry: its head and all words */
	__u32 slots;		/* entries, a power of two */
	__u8 pairs;		/* words before the series, zero in a new entry */
	__u8 sizes_at;		/* series: IP length, payload, window, TTL: 24, 16, 16, 8 bits */
	__u8 times_at;		/* series: ns */
	__u8 at[N_FEATURE_WORDS];
	__u8 pad[2];
};

enum feature_status {
	FEATURES_OPEN,
	FEATURES_TOLD,		/* closed, its record went into the ring */
	FEATURES_UNTOLD,	/* closed, but the ring was full: the next walk over the table takes it */
};

enum feature_judgement {
	FEATURES_NOT_JUDGED,
	FEATURES_SURE,		/* the verdict stands in the map, nothing more is gathered */
	FEATURES_UNSURE,
};

/* A flow's entry, and its record in the ring, which begins as struct packet_meta does. */
struct feature_entry {
	__u64 flow_id;		/* 0: never used */
	__u64 ready_ns;		/* when the row was closed, by the packets' clock */
	__u64 first_ns;		/* time of the packet of rank 0 */
	__u64 last_ns[2];	/* of the last packet of each direction */
	__u64 ranks[2];		/* bit n: the packet of rank n had this direction */
	struct flow_key key;
	__u32 ifindex;
	__u32 row;		/* where this stands in the table */
	__u16 vlan;		/* of the first packet, or VLAN_NONE */
	__u8 initiator;
	__u8 status;		/* enum feature_status */
	__u8 reason;		/* enum ready_reason, once closed */
	__u8 judged;		/* by trees in the kernel: enum feature_judgement */
	__u8 class;		/* the best one, if judged */
	__u8 pad;
	__u64 sum;		/* 2 ** 32 / its probability, if judged */
};

#ifndef __cplusplus
_Static_assert(sizeof(struct feature_plan) == 48, "feature_plan has no hidden padding");
_Static_assert(sizeof(struct feature_entry) == 128, "words of 8 bytes follow");
#endif

#endif /* ETCPIPE_FEATURES_PLAN_H */
