// SPDX-License-Identifier: Apache-2.0
/*
 * Regrouping on the device: gpu/regroup.py is the contract, gpu/regroup_cpu.py the definition.
 *
 *     parse      a thread a packet: what it is
 *     plan       one block: which packet goes into which row, which rows are closed
 *     scatter    a warp a packet: its fields and its masked bytes into the row
 *     idle       which open rows are idle
 *     close      rows that the host chose
 *     gather     a block a row: rows out, dense, and back to the free ones
 *
 * What a packet does to its slot depends on what came before it: that the row's waiting time
 * was over, or that a newer flow has the slot. So the plan sorts a batch by slot and arrival,
 * and the first thread of each slot takes the slot's packets one by one, while other slots
 * have theirs. The result does not depend on which thread is faster, as it would if packets
 * raced for their place by compare-and-swap.
 */
#include "packets.cuh"

#define ARRIVAL_BITS 10		/* of a packet's number in its batch */
#define UNSORTED (~0ull)	/* no slot: the packet has no flow */
#define EVERY_ROW (~0ull)

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

static inline __device__ struct row *row_at(const struct regroup_table *table, __u32 row)
{
	return (struct row *)table->rows + row;
}

static inline __device__ __u32 rows_high(const struct regroup_table *table)
{
	return ((const struct regroup_state *)table->state)->rows_high;
}

static inline __device__ bool is_idle(__u64 last_ns, __u64 now_ns, __u64 wait_ns)
{
	return now_ns > last_ns && now_ns - last_ns > wait_ns;
}

static inline __device__ bool has_last_rank(const struct regroup_table *table, __u64 present)
{
	return present >> (table->first_n - 1) & 1;
}

/* Ranks below the highest one that is there, and are not. */
static inline __device__ __u32 ranks_lost(__u64 present)
{
	return 64 - __clzll(present) - __popcll(present);
}

/* Bits of the @n ranks from @rank on, as far as they are below @first_n. */
static inline __device__ __u64 rank_bits(__u32 first_n, __u32 rank, __u32 n)
{
	__u32 end = n < first_n - rank ? rank + n : first_n;

	return (end == 64 ? 0 : 1ull << end) - (1ull << rank);
}

static inline __device__ __u64 slot_of(const struct regroup_table *table, __u64 flow_id)
{
	return flow_id % table->slots;
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

/* The fields and the raw view of one packet on the wire, by one warp. */
static inline __device__ void scatter_one(const struct regroup_table *table,
					  const struct regroup_batch *batch, __u32 i, __u32 rank,
					  const struct segment *segment)
{
	const struct packet *packet = &parsed_of(batch, i)->packet;
	__u64 at = (__u64)column<__u32>(batch->place_row, i) * table->first_n + rank;
	__u8 *raw = (__u8 *)table->raw + at * table->raw_len;
	struct frame frame = frame_of(batch, i);
	struct packet_fields fields = {};

	fields.timestamp_ns = column<__u64>(batch->timestamp_ns, i);
	fields.ip_len = segment->ip_len;
	fields.payload_len = segment->payload_len;
	fields.tcp_window = packet->tcp_window;
	fields.tcp_flags = segment->tcp_flags;
	fields.ttl = packet->ttl;
	fields.direction = column<__u8>(batch->direction, i);
	fields.present = 1;
	if (table->raw_len) {
		fields.raw_len = mask_packet(raw, table->raw_len, &frame, packet, segment,
					     (enum mask)table->mask);
		warp_fill(raw + fields.raw_len, 0, table->raw_len - fields.raw_len);
	}
	if (lane_id() == 0)
		((struct packet_fields *)table->packets)[at] = fields;
}

KERNEL(256) regroup_scatter(const struct regroup_table *table, const struct regroup_batch *batch)
{
	for (__u32 i = grid_warp(); i < batch->packets; i += grid_warps()) {
		__u64 ranks = column<__u64>(batch->place_ranks, i);
		const struct parsed *parsed = parsed_of(batch, i);
		__u32 first = column<__u16>(batch->rank, i);

		for (; ranks; ranks &= ranks - 1) {
			__u32 rank = __ffsll(ranks) - 1;
			struct segment segment =
				segment_at(&parsed->packet, column<__u16>(batch->segment_len, i),
					   rank - first, parsed->segments);

			scatter_one(table, batch, i, rank, &segment);
		}
	}
}

/* Find which packet updated the first row that is not idle; idle ones before it may be closed. */
KERNEL(256) regroup_idle_limit(const struct regroup_table *table, struct idle_rows *idle)
{
	if (grid_thread() == 0)
		((struct regroup_state *)table->state)->n_idle = 0;
	if (idle->after_ns == EVERY_ROW)
		return;
	for (__u32 i = grid_thread(); i < rows_high(table); i += grid_threads()) {
		const struct row *row = row_at(table, i);

		if (row->touched && !is_idle(row->last_ns, idle->now_ns, idle->after_ns))
			atomicMin(&idle->limit, row->touched);
	}
}

KERNEL(256) regroup_idle(const struct regroup_table *table, const struct idle_rows *idle)
{
	struct regroup_state *state = (struct regroup_state *)table->state;

	for (__u32 i = grid_thread(); i < rows_high(table); i += grid_threads()) {
		const struct row *row = row_at(table, i);
		__u32 at;

		if (!row->touched || row->touched >= idle->limit)
			continue;
		at = atomicAdd(&state->n_idle, 1u);
		((__u64 *)idle->touched)[at] = row->touched;
		((__u64 *)idle->last_ns)[at] = row->last_ns;
		((__u32 *)idle->row)[at] = i;
	}
}

KERNEL(256) regroup_close(const struct regroup_table *table, const struct row_output *output)
{
	struct regroup_state *state = (struct regroup_state *)table->state;
	__u32 i = grid_thread();
	struct row *row;

	if (i >= output->rows)
		return;
	row = row_at(table, column<__u32>(output->row, i));
	row->touched = 0;
	row->reason = has_last_rank(table, row->present) ? (__u8)READY_DEPTH :
							   column<__u8>(output->why, i);
	((__u32 *)table->slot_rows)[slot_of(table, row->flow_id)] = ROW_NONE;
	atomicAdd(&state->counters[REGROUP_LOST], (__u64)ranks_lost(row->present));
	atomicSub(&state->pending, 1u);
}

/* The packets of a closed row, by all warps of the block: those that are not there are zero. */
static inline __device__ void gather_packets(const struct regroup_table *table,
					     const struct row_output *output, __u32 index,
					     __u64 present)
{
	const __u32 first_n = table->first_n, raw_len = table->raw_len;
	const __u64 from = (__u64)index * first_n, to = (__u64)blockIdx.x * first_n;
	const struct packet_fields *packets = (struct packet_fields *)table->packets;

	for (__u32 rank = threadIdx.x; rank < first_n; rank += blockDim.x) {
		struct packet_fields fields = {};

		if (present >> rank & 1)
			fields = packets[from + rank];
		((struct packet_fields *)output->packets)[to + rank] = fields;
	}
	for (__u32 rank = threadIdx.x / WARP; rank < first_n; rank += blockDim.x / WARP) {
		__u8 *raw = (__u8 *)output->raw + (to + rank) * raw_len;

		if (present >> rank & 1)
			warp_copy(raw, (__u8 *)table->raw + (from + rank) * raw_len, raw_len);
		else
			warp_fill(raw, 0, raw_len);
	}
}

KERNEL(256) regroup_gather(const struct regroup_table *table, const struct row_output *output)
{
	struct regroup_state *state = (struct regroup_state *)table->state;
	__u32 to = blockIdx.x, index = column<__u32>(output->row, to);
	const struct row *row = row_at(table, index);

	gather_packets(table, output, index, row->present);
	if (threadIdx.x == 0) {
		((__u64 *)output->flow_id)[to] = row->flow_id;
		((struct flow_key *)output->key)[to] = row->key;
		((__u8 *)output->initiator)[to] = row->initiator;
		((__u16 *)output->vlan)[to] = row->vlan;
		((__u32 *)output->ifindex)[to] = row->ifindex;
		((__u16 *)output->lost)[to] = ranks_lost(row->present);
		((__u8 *)output->reason)[to] = row->reason;
		((__u64 *)output->ready_ns)[to] =
			row->last_ns + (row->reason == READY_IDLE ? table->wait_ns : 0);
		((__u32 *)table->free_rows)[atomicAdd(&state->n_free, 1u)] = index;
	}
}
