/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the host tells the kernels, and what they keep between batches. Read by CUDA and, as
 * bpf/etcpipe.h, by etcpipe/layout.py into NumPy dtypes: so only fixed widths. A __u64 that is
 * said to be an array holds its address on the device.
 */
#ifndef ETCPIPE_TABLES_H
#define ETCPIPE_TABLES_H

#include "etcpipe.h"
#include "regroup_counters.h"

#define ROW_NONE 0xffffffff
#define PARSED_SIZE 192		/* bytes for a struct parsed of packets.cuh */
#define CLOSINGS_MAX 3072	/* rows that a batch closes: 3 a packet */
#define FLOW_SKIP 0xffffffffffffffff	/* the packet is none of the first N of its flow */

/* A flow's row. Its packets and raw bytes lie in arrays beside it. */
struct row {
	__u64 flow_id;
	__u64 last_ns;		/* newest packet that is in the row */
	__u64 present;		/* bit by rank */
	__u64 touched;		/* number of the packet that updated it last, 0: the row is closed */
	struct flow_key key;
	__u32 ifindex;
	__u16 vlan;
	__u8 initiator;
	__u8 reason;		/* enum ready_reason, once closed */
};

/* Changes with every batch; the host reads it after each. */
struct regroup_state {
	__u64 counters[N_REGROUP_COUNTERS];
	__u32 pending;		/* open rows */
	__u32 n_free;
	__u32 rows_high;	/* rows from here on were never used */
	__u32 n_idle;		/* rows that regroup_idle() found */
	__u32 n_closed;		/* rows that the last batch closed */
	__u32 n_holed;
	__u32 closed[CLOSINGS_MAX];	/* in the order they were closed */
	__u32 holed_packet[BATCH_MAX];	/* packets of rows with the last rank, but not all others */
	__u32 holed_row[BATCH_MAX];
};

/* Settings, and where the tables lie. Written once. */
struct regroup_table {
	__u64 slots;
	__u64 wait_ns;
	__u64 owners;		/* __u64[slots], newest flow id of each slot */
	__u64 slot_rows;	/* __u32[slots], its row, ROW_NONE once that was closed */
	__u64 rows;		/* struct row[row_room] */
	__u64 packets;		/* struct packet_fields[row_room][first_n] */
	__u64 raw;		/* __u8[row_room][first_n][raw_len] */
	__u64 free_rows;	/* __u32[row_room], a stack */
	__u64 state;		/* struct regroup_state */
	__u32 first_n;
	__u32 raw_len;
	__u32 max_rows;
	__u32 row_room;		/* max_rows, and what a batch may open while as many are closed */
	__u32 mask;
	__u32 parse;		/* PARSE_ bits */
};

/* One batch: its columns, and what becomes of each packet. */
struct regroup_batch {
	__u64 memory;		/* __u8[memory_len], 16-byte aligned, as is its length */
	__u64 memory_len;
	__u64 offset;		/* columns of a PacketBatch, by their names */
	__u64 captured;
	__u64 wire_len;
	__u64 timestamp_ns;
	__u64 flow_id;
	__u64 rank;
	__u64 direction;
	__u64 vlan;
	__u64 segment_len;
	__u64 ifindex;
	__u64 parsed;		/* struct parsed[BATCH_MAX] */
	__u64 place_row;	/* __u32[BATCH_MAX], where each packet goes */
	__u64 place_ranks;	/* __u64[BATCH_MAX], a bit for each rank that it fills there */
	__u64 first_number;	/* of the batch's first packet, from 1 */
	__u32 packets;
	__u32 link_type;
};

/* In the order of COUNTERS in gpu/flow_sort.py. */
enum sort_counter {
	SORT_CREATED,
	SORT_RESTARTED,
	SORT_TABLE_FULL,
	N_SORT_COUNTERS,
};

/* A flow that flow_sort() knows. */
struct sorted_flow {
	struct flow_key key;
	struct flow_state state;
};

struct flow_sort_state {
	__u64 counters[N_SORT_COUNTERS];
	__u64 last_id;
	__u32 n_flows;
	__u32 pad;
};

/* A hash table with open addressing. Nothing is taken out of it: it is built anew without it. */
struct flow_sort_table {
	__u64 flows;		/* struct sorted_flow[mask + 1] */
	__u64 used;		/* __u32[mask + 1], 1 where there is a flow */
	__u64 state;		/* struct flow_sort_state */
	__u64 seed;		/* of the hash */
	__u64 establish_ns;
	__u64 idle_ns;
	__u64 tombstone_ns;
	__u32 mask;		/* places - 1, of a power of two and twice flows_max at least */
	__u32 flows_max;
	__u32 first_n;
	__u32 count_rule;
};

/* The table built anew: it lies in these arrays, and the old ones are empty. */
struct flow_sweep {
	__u64 flows;
	__u64 used;
	__u64 now_ns;		/* flows that are silent by then are left out */
};

/* Which open rows are wanted, and where they are written, in any order. */
struct idle_rows {
	__u64 touched;		/* __u64[row_room] */
	__u64 last_ns;		/* __u64[row_room] */
	__u64 row;		/* __u32[row_room] */
	__u64 now_ns;
	__u64 after_ns;		/* a row is idle after so long; all ones: every open row is wanted */
	__u64 limit;		/* rows updated before this packet are idle, all of them */
};

/* Rows to be closed, or to be handed over: the columns of a FlowBatch, by their names. */
struct row_output {
	__u64 row;		/* __u32[rows] */
	__u64 why;		/* __u8[rows], enum ready_reason */
	__u64 depth;		/* __u8[rows], of early rows: ranks below it come out */
	__u64 flow_id;
	__u64 key;
	__u64 initiator;
	__u64 vlan;
	__u64 ifindex;
	__u64 packets;
	__u64 raw;
	__u64 lost;
	__u64 reason;
	__u64 ready_ns;
	__u32 rows;
	__u32 pad;
};

/* Flows that need no more rows. */
struct leaving_flows {
	__u64 flow_id;		/* __u64[flows] */
	__u32 flows;
	__u32 pad;
};

/* Rows as regroup_gather() writes them, and how many of their packets a view shows. */
struct view_input {
	__u64 packets;		/* struct packet_fields[flows][first_n] */
	__u64 key;		/* struct flow_key[flows] */
	__u64 initiator;	/* __u8[flows] */
	__u64 raw;		/* __u8[flows][first_n][raw_len] */
	__u32 flows;
	__u32 first_n;
	__u32 raw_len;
	__u32 depth;
};

/* Where a view is written. */
struct view_output {
	__u64 rows;		/* stats: float[flows][columns], seq: float[flows][ranks][columns], .. */
	__u64 plan;		/* struct feature_plan, of stats and features */
	__u32 ranks;
	__u32 columns;
	__u32 raw_len;		/* bytes of a packet that the view looks at */
	__u32 pad;
};

#endif /* ETCPIPE_TABLES_H */
