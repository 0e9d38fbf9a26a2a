/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Regrouping: packets with their flow's id and their rank go in, flows whose model input is
 * complete come out. gpu/regroup.py is the contract, gpu/regroup_cpu.py the definition.
 */
#ifndef ETCPIPE_REGROUP_H
#define ETCPIPE_REGROUP_H

#include "columns.h"
#include "mask.h"
#include "regroup_counters.h"
#include "rows.h"

#define NOW_NEWEST UINT64_MAX	/* the batch's newest packet is the time */
#define SHARDS_MAX 64

struct regroup_settings {
	uint32_t first_n;	/* 1 .. FIRST_N_MAX */
	uint32_t raw_len;
	uint32_t slots;
	uint32_t max_rows;	/* pending flows */
	uint64_t wait_ns;
	uint64_t grace_ns;
	uint32_t expire_max;	/* rows that expiry closes at once */
	enum mask mask;
	uint32_t parse;		/* PARSE_ bits, as the tracker had them */
	uint64_t early;		/* bit by rank: when it arrives, the row so far comes out */
	uint32_t shards;	/* regroups that see the same batches (shards.h), 1 .. SHARDS_MAX, */
	uint32_t shard;		/* and the number of this one: it takes its flows only */
};

/* A PacketBatch. */
struct packet_batch {
	const uint8_t *memory;
	uint64_t memory_len;
	const struct packet_columns *columns;
	uint32_t packets;
	int link_type;
};

/* Where the columns of a FlowBatch lie, in its order. */
struct flow_columns {
	uint64_t *flow_id;
	struct flow_key *key;
	uint8_t *initiator;
	uint16_t *vlan;
	uint32_t *ifindex;
	struct packet_fields *packets;
	uint8_t *raw;
	uint16_t *lost;
	uint8_t *reason;
	uint64_t *ready_ns;
	uint8_t *depth;		/* of early rows, else unused */
};

/* A row as it was when a rank of set.early arrived; the flow goes on. */
struct early_row {
	uint32_t row;
	uint8_t depth;
};

/* Which flow owns a slot, and its row; ROW_NONE once the flow was closed. */
struct slot {
	uint64_t flow_id;	/* 0: never used */
	uint32_t row;
};

struct regroup {
	struct regroup_settings set;
	struct slot *slots;
	struct row_pool pool;
	struct row_list pending;	/* least recently updated first */
	struct row_list closed;		/* in the order they come out */
	struct early_row *early;	/* likewise */
	uint32_t n_early;
	uint32_t early_room;
	uint64_t clock_ns;		/* newest packet so far */
	int holed;			/* this batch brought a last rank before another one */
	uint64_t counters[N_REGROUP_COUNTERS];
};

/* Return NULL without memory. */
struct regroup *regroup_new(const struct regroup_settings *settings);
void regroup_free(struct regroup *r);
/* Take a batch. @now_ns is the time, or NOW_NEWEST. Returns -1 without memory. */
int regroup_add(struct regroup *r, const struct packet_batch *batch, uint64_t now_ns);
void regroup_expire(struct regroup *r, uint64_t now_ns);
void regroup_flush(struct regroup *r);
/* Forget flows whose row is open: they had their answer. */
void regroup_leave(struct regroup *r, const uint64_t *flow_id, uint32_t flows);
/* Copy all early rows out; before regroup_take(), which frees rows that they lie in. */
void regroup_take_early(struct regroup *r, const struct flow_columns *out);
/* Move all closed rows out. */
void regroup_take(struct regroup *r, const struct flow_columns *out);

#endif /* ETCPIPE_REGROUP_H */
