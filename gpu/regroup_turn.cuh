/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One packet's turn at its slot: whether its row is closed, another one opened, and the place
 * that the packet gets. gpu/regroup_plan.cu has the turns in their order.
 */
#ifndef ETCPIPE_REGROUP_TURN_CUH
#define ETCPIPE_REGROUP_TURN_CUH

#include "regroup_rows.cuh"

/* A slot and its open row, while one thread takes its packets. */
struct turn {
	__u64 slot;
	__u64 owner;
	__u64 last_ns;
	__u64 present;
	__u64 touched;
	__u32 row;
};

/* What the plan needs of a packet, close at hand: one thread may have to take a thousand. */
struct note {
	__u64 flow_id;		/* 0: no row gets it */
	__u64 now_ns;
	__u32 segments;
	__u32 rank;
};

/* What all threads of the plan share. */
struct plan {
	const struct regroup_table *table;
	const struct regroup_batch *batch;
	const struct note *notes;	/* [BATCH_MAX] */
	__u32 *closings;	/* [CLOSINGS_MAX], rows by the packet and step that closed them */
	__u32 *counters;	/* [N_REGROUP_COUNTERS] of this batch */
	__u32 *pending;
};

/* Why a packet closes a row, in the order in which it may. */
enum closing {
	CLOSING_SLOT,		/* its own row was idle, or its flow needs the slot */
	CLOSING_POOL,		/* its flow needs a row */
	CLOSING_DEPTH,		/* it was the last one of its row */
	N_CLOSINGS,
};

static_assert(N_CLOSINGS * BATCH_MAX == CLOSINGS_MAX, "room for all closings");

/* Bits of the @n ranks from @rank on, as far as they are below @first_n. */
static inline __device__ __u64 rank_bits(__u32 first_n, __u32 rank, __u32 n)
{
	__u32 end = n < first_n - rank ? rank + n : first_n;

	return (end == 64 ? 0 : 1ull << end) - (1ull << rank);
}

static inline __device__ struct note note_of(const struct regroup_batch *batch, __u32 i)
{
	struct note note = {};

	if (i >= batch->packets)
		return note;
	note.flow_id = column<__u64>(batch->flow_id, i);
	if (note.flow_id == FLOW_SKIP)
		note.flow_id = 0;
	note.now_ns = column<__u64>(batch->timestamp_ns, i);
	note.segments = parsed_of(batch, i)->segments;
	note.rank = column<__u16>(batch->rank, i);
	return note;
}

static inline __device__ struct turn turn_load(const struct regroup_table *table, __u64 slot)
{
	struct turn turn = {};

	turn.slot = slot;
	turn.owner = ((__u64 *)table->owners)[slot];
	turn.row = ((__u32 *)table->slot_rows)[slot];
	if (turn.row != ROW_NONE) {
		const struct row *row = row_at(table, turn.row);

		turn.last_ns = row->last_ns;
		turn.present = row->present;
		turn.touched = row->touched;
	}
	return turn;
}

static inline __device__ void turn_store(const struct regroup_table *table, const struct turn *turn)
{
	((__u64 *)table->owners)[turn->slot] = turn->owner;
	((__u32 *)table->slot_rows)[turn->slot] = turn->row;
	if (turn->row != ROW_NONE) {
		struct row *row = row_at(table, turn->row);

		row->last_ns = turn->last_ns;
		row->present = turn->present;
		row->touched = turn->touched;
	}
}

static inline __device__ void count(const struct plan *plan, __u32 counter, __u32 n)
{
	atomicAdd(&plan->counters[counter], n);
}

/* Close the turn's row because of packet @i. Whatever closes it, with its last rank it is complete. */
static inline __device__ void turn_close(const struct plan *plan, struct turn *turn, __u32 i,
					 __u32 step, __u32 reason)
{
	turn->touched = 0;
	turn_store(plan->table, turn);
	row_at(plan->table, turn->row)->reason =
		has_last_rank(plan->table, turn->present) ? (__u32)READY_DEPTH : reason;
	plan->closings[i * N_CLOSINGS + step] = turn->row;
	count(plan, REGROUP_LOST, ranks_lost(turn->present));
	atomicSub(plan->pending, 1u);
	turn->row = ROW_NONE;
}

/* Close a row whose place is needed; it was idle anyway if its flow said nothing for so long. */
static inline __device__ void make_room(const struct plan *plan, struct turn *turn, __u32 i,
					__u32 step, __u32 counter)
{
	__u64 now_ns = plan->notes[i].now_ns;
	bool idle = is_idle(turn->last_ns, now_ns, plan->table->wait_ns);

	if (!idle && !has_last_rank(plan->table, turn->present))
		count(plan, counter, 1);
	turn_close(plan, turn, i, step, idle ? READY_IDLE : READY_EVICTED);
}

/*
 * Decide on packet @i as far as its slot and itself say. Returns the counter under which it
 * goes, REGROUP_FLOWS if it opens a row, or REGROUP_STORED if its row is open.
 */
static inline __device__ __u32 admit(const struct plan *plan, struct turn *turn, __u32 i)
{
	const struct note *note = &plan->notes[i];

	if (note->flow_id < turn->owner)
		return REGROUP_STRAGGLERS;
	if (note->flow_id == turn->owner) {
		if (turn->row == ROW_NONE)
			return REGROUP_LATE;
		if (is_idle(turn->last_ns, note->now_ns, plan->table->wait_ns)) {
			turn_close(plan, turn, i, CLOSING_SLOT, READY_IDLE);
			return REGROUP_LATE;
		}
	}
	if (note->rank >= plan->table->first_n)
		return REGROUP_BEYOND;
	if (!note->segments)
		return REGROUP_UNPARSED;
	return note->flow_id == turn->owner ? REGROUP_STORED : REGROUP_FLOWS;
}

static inline __device__ void open_row(const struct plan *plan, struct turn *turn, __u32 i)
{
	const struct regroup_batch *batch = plan->batch;
	const struct packet *packet = &parsed_of(batch, i)->packet;
	struct regroup_state *state = (struct regroup_state *)plan->table->state;
	struct row *row;

	turn->row = ((__u32 *)plan->table->free_rows)[atomicSub(&state->n_free, 1u) - 1];
	turn->owner = plan->notes[i].flow_id;
	turn->last_ns = turn->present = 0;
	row = row_at(plan->table, turn->row);
	row->flow_id = turn->owner;
	row->key = packet->key;
	row->ifindex = column<__u32>(batch->ifindex, i);
	row->vlan = column<__u16>(batch->vlan, i);
	row->initiator = (packet->from_b ^ column<__u8>(batch->direction, i)) & 1;
	atomicMax(&state->rows_high, turn->row + 1);
	atomicAdd(plan->pending, 1u);
	count(plan, REGROUP_FLOWS, 1);
}

/* Give packet @i its place in the turn's open row. Returns the counter under which it goes. */
static inline __device__ __u32 place(const struct plan *plan, struct turn *turn, __u32 i)
{
	const struct regroup_batch *batch = plan->batch;
	const struct note *note = &plan->notes[i];
	__u32 first_n = plan->table->first_n;
	__u64 ranks = rank_bits(first_n, note->rank, note->segments) & ~turn->present;

	if (!ranks)
		return REGROUP_DUPLICATES;
	((__u32 *)batch->place_row)[i] = turn->row;
	((__u64 *)batch->place_ranks)[i] = ranks;
	turn->present |= ranks;
	turn->touched = batch->first_number + i;
	if (note->now_ns > turn->last_ns)
		turn->last_ns = note->now_ns;
	if (turn->present == rank_bits(first_n, 0, first_n))
		turn_close(plan, turn, i, CLOSING_DEPTH, READY_DEPTH);
	return REGROUP_STORED;
}

#endif /* ETCPIPE_REGROUP_TURN_CUH */
