/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Columns about whole flows: gpu/features.py declares them, gpu/features_cpu.py is the
 * definition. gpu/features_native.py reads this file, so it keeps to the subset of C that
 * etcpipe/layout.py understands, and makes the plan: which states (features_states.py)
 * the columns need. Work for other states is not done. feature_rows.c and feature_lanes.c are
 * compiled for the CPU and, by gpu/views.cu, for a GPU.
 */
#ifndef ETCPIPE_FEATURE_ROWS_H
#define ETCPIPE_FEATURE_ROWS_H

#include <linux/types.h>

#define FEATURE_FIRST_K 10	/* packets with a column of their own */
#define FEATURE_SIZE_BINS 16
#define FEATURE_SIZE_BIN 128

/* Quantities of one side's packets; a gap is the time since the packet before, of either side. */
enum feature_quantity {
	QUANTITY_BYTES,
	QUANTITY_IAT,
	QUANTITY_WINSIZE,
	QUANTITY_TTL,
	QUANTITY_PAYLOAD,
	QUANTITY_GAP,
	N_QUANTITIES,
};

/* Kept of the values of a quantity. */
enum feature_kind {
	KIND_SUM,
	KIND_SQUARES,
	KIND_MIN,
	KIND_MAX,
	KIND_VALUES,
	N_KINDS,
};

/* Finished from it. */
enum feature_statistic {
	STATISTIC_SUM,
	STATISTIC_MEAN,
	STATISTIC_MIN,
	STATISTIC_MAX,
	STATISTIC_MED,
	STATISTIC_STD,
	N_STATISTICS,
};

/* Work beside the quantities; bits of feature_plan.parts. */
enum feature_part {
	PART_TIMES,		/* of each packet, since the first one */
	PART_TOTALS,		/* what follows from times and sums of bytes */
	PART_HANDSHAKE,
	PART_FLAGS,
	PART_BURSTS,
	PART_BINS,
	PART_EACH,		/* sizes and gaps of the first packets */
	N_PARTS,
};

/* Values that are not statistics of a quantity; columns by their names. */
enum feature_value {
	VALUE_DUR,
	VALUE_PROTO,
	VALUE_S_PORT,
	VALUE_D_PORT,
	VALUE_S_LOAD,
	VALUE_D_LOAD,
	VALUE_S_PKT_CNT,
	VALUE_D_PKT_CNT,
	VALUE_TCP_RTT,
	VALUE_SYN_ACK,
	VALUE_ACK_DAT,
	VALUE_FIN_CNT,		/* flags from the lowest bit up */
	VALUE_SYN_CNT,
	VALUE_RST_CNT,
	VALUE_PSH_CNT,
	VALUE_ACK_CNT,
	VALUE_URG_CNT,
	VALUE_ECE_CNT,
	VALUE_CWR_CNT,
	VALUE_D_PKT_SHARE,
	VALUE_D_BYTES_SHARE,
	VALUE_BURST_CNT,
	VALUE_S_BURST_PKTS_MAX,
	VALUE_D_BURST_PKTS_MAX,
	VALUE_S_BURST_BYTES_MAX,
	VALUE_D_BURST_BYTES_MAX,
	VALUE_S_SIZE_ENTROPY,
	VALUE_D_SIZE_ENTROPY,
	N_NAMED_VALUES,		/* behind them: sizes, then gaps, of the first packets; statistics */
};

/* A quantity of one side, and what is kept of it. */
struct feature_lane {
	__u8 side;		/* 0: from the initiator; a gap has side 0 */
	__u8 quantity;
	__u8 kinds;		/* bits */
	__u8 pad;
};

/* What to compute; addresses are of arrays that the caller keeps. */
struct feature_plan {
	__u64 lanes;		/* struct feature_lane */
	__u64 columns;		/* __u16, the value of each column */
	__u64 log2;		/* double, of 0 (0) .. FIRST_N_MAX */
	__u32 n_lanes;
	__u32 n_columns;
	__u32 parts;
	__u32 depth;
};

/* Where the flows are and where the rows go. */
struct feature_flows {
	__u64 key;		/* struct flow_key */
	__u64 initiator;	/* __u8 */
	__u64 packets;		/* struct packet_fields, first_n a flow */
	__u64 rows;		/* float, n_columns a flow */
	__u32 flows;
	__u32 first_n;		/* 1 .. FIRST_N_MAX */
};


#endif /* ETCPIPE_FEATURE_ROWS_H */
