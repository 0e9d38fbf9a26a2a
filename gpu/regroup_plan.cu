// SPDX-License-Identifier: Apache-2.0
/*
 * What goes where: gpu/regroup.py is the contract, gpu/regroup_cpu.py the definition.
 *
 *     parse      a thread a packet: what it is
 *     plan       one block: which packet goes into which row, which rows are closed
 *
 * What a packet does to its slot depends on what came before it: that the row's waiting time
 * was over, or that a newer flow has the slot. So the plan sorts a batch by slot and arrival,
 * and the first thread of each slot takes the slot's packets one by one, while other slots
 * have theirs. The result does not depend on which thread is faster, as it would if packets
 * raced for their place by compare-and-swap.
 */
#include "regroup_turn.cuh"

#define ARRIVAL_BITS 10		/* of a packet's number in its batch */
#define UNSORTED (~0ull)	/* no slot: the packet has no flow */

static_assert(1 << ARRIVAL_BITS == BATCH_MAX, "an arrival number fits");

KERNEL(128) regroup_parse(const struct regroup_table *table, const struct regroup_batch *batch)
{
	__shared__ struct frame_start starts[128];
	__u32 i = grid_thread();

	stage_frames(batch, starts);
	__syncthreads();
	if (i < batch->packets)
		parse_one(batch, table->parse, i, &starts[threadIdx.x]);
}

/* The packets of a slot, one after the other; @sorted is the batch by slot and arrival. */
static inline __device__ void take_run(const struct plan *plan, const __u64 *sorted, __u32 at)
{
	__u64 slot = sorted[at] >> ARRIVAL_BITS;
	struct turn turn = turn_load(plan->table, slot);

	for (; at < BATCH_MAX && sorted[at] >> ARRIVAL_BITS == slot; at++) {
		__u32 i = sorted[at] % BATCH_MAX;
		__u32 counter = admit(plan, &turn, i);

		if (counter == REGROUP_FLOWS) {
			if (turn.row != ROW_NONE)
				make_room(plan, &turn, i, CLOSING_SLOT, REGROUP_EVICTED);
			open_row(plan, &turn, i);
		}
		if (counter == REGROUP_FLOWS || counter == REGROUP_STORED)
			counter = place(plan, &turn, i);
		count(plan, counter, 1);
	}
	turn_store(plan->table, &turn);
}

/* The open row that was not updated for longest; there is one. All threads call it. */
static inline __device__ __u32 oldest_row(const struct regroup_table *table, __u64 *oldest,
					  __u32 *found)
{
	__u64 mine = ~0ull;
	__u32 row = ROW_NONE;

	if (threadIdx.x == 0) {
		*oldest = ~0ull;
		*found = ROW_NONE;
	}
	__syncthreads();
	for (__u32 i = threadIdx.x; i < rows_high(table); i += BATCH_MAX) {
		__u64 touched = row_at(table, i)->touched;

		if (touched && touched < mine) {
			mine = touched;
			row = i;
		}
	}
	atomicMin(oldest, mine);
	__syncthreads();
	if (row != ROW_NONE && *oldest == mine)
		atomicCAS(found, ROW_NONE, row);
	__syncthreads();
	return *found;
}

/*
 * The whole batch in its order, for when it may need more rows than there are: then a packet
 * of one slot closes the row of another.
 */
static inline __device__ void take_all(const struct plan *plan)
{
	__shared__ __u64 oldest;
	__shared__ __u32 found, full;
	const struct regroup_table *table = plan->table;
	struct turn turn = {};
	__u32 counter = 0;

	for (__u32 i = 0; i < plan->batch->packets; i++) {
		__u64 flow_id = plan->notes[i].flow_id;

		if (!flow_id)
			continue;
		if (threadIdx.x == 0) {
			turn = turn_load(table, slot_of(table, flow_id));
			counter = admit(plan, &turn, i);
			if (counter == REGROUP_FLOWS && turn.row != ROW_NONE)
				make_room(plan, &turn, i, CLOSING_SLOT, REGROUP_EVICTED);
			full = counter == REGROUP_FLOWS && *plan->pending >= table->max_rows;
		}
		__syncthreads();
		if (full) {
			__u32 row = oldest_row(table, &oldest, &found);

			if (threadIdx.x == 0) {
				__u64 slot = slot_of(table, row_at(table, row)->flow_id);
				struct turn other = turn_load(table, slot);

				make_room(plan, &other, i, CLOSING_POOL, REGROUP_POOL_FULL);
				turn_store(table, &other);
			}
		}
		if (threadIdx.x == 0) {
			if (counter == REGROUP_FLOWS)
				open_row(plan, &turn, i);
			if (counter == REGROUP_FLOWS || counter == REGROUP_STORED)
				counter = place(plan, &turn, i);
			count(plan, counter, 1);
			turn_store(table, &turn);
		}
		__syncthreads();
	}
}

/* Write the closed rows in the order in which the packets closed them. */
static inline __device__ void report_closed(const struct plan *plan, struct regroup_state *state,
					    __u32 *shared)
{
	const __u32 *mine = plan->closings + threadIdx.x * N_CLOSINGS;
	__u32 n = 0, end;

	for (__u32 step = 0; step < N_CLOSINGS; step++)
		n += mine[step] != ROW_NONE;
	end = block_scan<plus>(n, shared);
	for (__u32 step = 0, at = end - n; step < N_CLOSINGS; step++)
		if (mine[step] != ROW_NONE)
			state->closed[at++] = mine[step];
	if (threadIdx.x == BATCH_MAX - 1)
		state->n_closed = end;
}

/* Write the packets whose row has the last rank and is still open. */
static inline __device__ void report_holed(const struct plan *plan, struct regroup_state *state,
					   __u32 *shared)
{
	const struct regroup_table *table = plan->table;
	__u32 i = threadIdx.x, row = ROW_NONE, end;
	__u64 flow_id = plan->notes[i].flow_id;

	if (flow_id && ((__u64 *)table->owners)[slot_of(table, flow_id)] == flow_id)
		row = ((__u32 *)table->slot_rows)[slot_of(table, flow_id)];
	if (row != ROW_NONE && !has_last_rank(table, row_at(table, row)->present))
		row = ROW_NONE;
	end = block_scan<plus>(row != ROW_NONE, shared);
	if (row != ROW_NONE) {
		state->holed_packet[end - 1] = i;
		state->holed_row[end - 1] = row;
	}
	if (i == BATCH_MAX - 1)
		state->n_holed = end;
}

KERNEL(BATCH_MAX) regroup_plan(const struct regroup_table *table, const struct regroup_batch *batch)
{
	__shared__ __u64 sorted[BATCH_MAX];
	__shared__ struct note notes[BATCH_MAX];
	__shared__ __u32 closings[CLOSINGS_MAX];
	__shared__ __u32 counters[N_REGROUP_COUNTERS];
	__shared__ __u32 sums[WARPS];
	__shared__ __u32 pending, before;
	struct regroup_state *state = (struct regroup_state *)table->state;
	const struct plan plan = { table, batch, notes, closings, counters, &pending };
	const __u32 t = threadIdx.x;
	__u64 flow_id, mine;

	for (__u32 i = t; i < CLOSINGS_MAX; i += BATCH_MAX)
		closings[i] = ROW_NONE;
	if (t < N_REGROUP_COUNTERS)
		counters[t] = 0;
	if (t < batch->packets)
		((__u64 *)batch->place_ranks)[t] = 0;
	if (t == 0)
		pending = before = state->pending;
	notes[t] = note_of(batch, t);
	flow_id = notes[t].flow_id;
	mine = block_sort(flow_id ? slot_of(table, flow_id) << ARRIVAL_BITS | t : UNSORTED, sorted);
	sorted[t] = mine;
	__syncthreads();
	if (t < batch->packets && !column<__u64>(batch->flow_id, t))
		count(&plan, REGROUP_UNPARSED, 1);
	if (before + batch->packets > table->max_rows)
		take_all(&plan);
	else if (mine != UNSORTED &&
		 (!t || sorted[t - 1] >> ARRIVAL_BITS != mine >> ARRIVAL_BITS))
		take_run(&plan, sorted, t);
	__syncthreads();
	report_closed(&plan, state, sums);
	report_holed(&plan, state, sums);
	if (t < N_REGROUP_COUNTERS)
		state->counters[t] += counters[t];
	if (t == 0)
		state->pending = pending;
}
