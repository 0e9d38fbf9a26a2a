/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What cascade.c and cascade_rows.c work on. etcpipe/cascade/states.py reads this file, so it
 * keeps to the subset of C that etcpipe/layout.py understands. Addresses are those of arrays that
 * etcpipe/cascade/pool.py and steps_native.py keep alive.
 */
#ifndef ETCPIPE_CASCADE_H
#define ETCPIPE_CASCADE_H

#include <linux/types.h>

#define CASCADE_NO_STAGE 255
#define CASCADE_NOT_TOLD 0xfffe	/* -2 */

/* How far a flow has come in the cascade. */
enum cascade_status {
	CASCADE_NONE,
	CASCADE_WAITING,	/* for packets */
	CASCADE_QUEUED,		/* a row of it is queued or judged */
	CASCADE_DONE
};

/* State of a flow between two stages; labels are int16. */
struct cascade_state {
	__u64 flow_id;
	__u64 infer_ns;		/* share of all batches that it was in */
	__u32 probability;	/* a float32's bits */
	__u16 label;
	__u16 runner_up;
	__u16 told;		/* label of the early answer, or CASCADE_NOT_TOLD */
	__u16 packets_used;
	__u8 stage;		/* that gave the answer, or CASCADE_NO_STAGE */
	__u8 next;		/* stage that it is to go to */
	__u8 status;
	__u8 pad;
};

/* What a stage's model says of a row. */
struct cascade_said {
	__u32 probability;
	__u16 label;
	__u16 runner_up;
	__u16 packets_used;
	__u8 sure;
	__u8 pad;
};

/* A row's columns of an etcpipe.verdict.VerdictBatch. */
struct cascade_verdict {
	__u64 wait_ns;
	__u64 queue_ns;
	__u64 infer_ns;
	__u32 probability;
	__u16 label;
	__u16 runner_up;
	__u16 depth;
	__u16 packets_used;
	__u8 stage;
	__u8 event;
	__u8 source;
	__u8 pad;
};

struct cascade_column {
	__u64 rows;		/* [places][size] */
	__u64 size;		/* bytes of a row */
};

/* Rows on their way, each in one place. */
struct cascade_pool {
	__u64 columns;		/* [n_columns] struct cascade_column */
	__u64 n_columns;
	__u64 flow_id;		/* [places] __u64: some of the columns once more */
	__u64 ready_ns;		/* [places] __u64 */
	__u64 reason;		/* [places] __u8 */
	__u64 packets;		/* [places][ranks] struct packet_fields */
	__u64 ranks;
	__u64 depth;		/* [places] __u8, packets of an early row; 0: its flow's last one */
	__u64 state;		/* [places] struct cascade_state, the answer so far */
	__u64 free;		/* [places] __u64, those without a row are the first n_free */
	__u64 n_free;
};

/* Flows between two of their rows, and the stages. */
struct cascade_flows {
	__u64 states;		/* [slots] struct cascade_state */
	__u64 slots;
	__u64 forgotten;	/* __u64, flows that lost their slot while something was awaited */
	__u64 depths;		/* [stages] __u16, packets that each waits for */
	__u64 stages;
	__u64 sources;		/* [reasons + 1] __u8, by why a row is complete; last: empty rows */
	__u64 reasons;
	__u64 tell_early;
};

#endif /* ETCPIPE_CASCADE_H */
