// SPDX-License-Identifier: Apache-2.0
/*
 * Rows filled, closed and handed over, as gpu/regroup_plan.cu and the host decided.
 *
 *     scatter    a warp a packet: its fields and its masked bytes into the row
 *     idle       which open rows are idle
 *     close      rows that the host chose
 *     leave      rows of flows that had their answer: back to the free ones
 *     gather     a block a row: rows out, dense, and back to the free ones
 *     early      a block a row: what an open or closed row holds so far
 */
#include "regroup_rows.cuh"

#define EVERY_ROW (~0ull)

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

static inline __device__ void free_row(const struct regroup_table *table, __u32 index)
{
	struct regroup_state *state = (struct regroup_state *)table->state;

	((__u32 *)table->free_rows)[atomicAdd(&state->n_free, 1u)] = index;
}

/* A flow may be named twice: whoever takes the row out of its slot frees it. */
KERNEL(256) regroup_leave(const struct regroup_table *table, const struct leaving_flows *leaving)
{
	struct regroup_state *state = (struct regroup_state *)table->state;
	__u32 i = grid_thread(), index;
	__u64 flow_id, slot;

	if (i >= leaving->flows)
		return;
	flow_id = column<__u64>(leaving->flow_id, i);
	slot = slot_of(table, flow_id);
	if (!flow_id || ((__u64 *)table->owners)[slot] != flow_id)
		return;
	index = atomicExch((__u32 *)table->slot_rows + slot, ROW_NONE);
	if (index == ROW_NONE)
		return;
	row_at(table, index)->touched = 0;
	atomicAdd(&state->counters[REGROUP_LEFT], 1ull);
	atomicAdd(&state->counters[REGROUP_LOST],
		  (__u64)ranks_lost(row_at(table, index)->present));
	atomicSub(&state->pending, 1u);
	free_row(table, index);
}

/* The packets @present of a row, by all warps of the block: those that are not there are zero. */
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

/* What of a flow is no packet's. */
static inline __device__ void gather_flow(const struct row_output *output, const struct row *row,
					  __u64 present, enum ready_reason reason, __u64 ready_ns)
{
	__u32 to = blockIdx.x;

	((__u64 *)output->flow_id)[to] = row->flow_id;
	((struct flow_key *)output->key)[to] = row->key;
	((__u8 *)output->initiator)[to] = row->initiator;
	((__u16 *)output->vlan)[to] = row->vlan;
	((__u32 *)output->ifindex)[to] = row->ifindex;
	((__u16 *)output->lost)[to] = ranks_lost(present);
	((__u8 *)output->reason)[to] = reason;
	((__u64 *)output->ready_ns)[to] = ready_ns;
}

KERNEL(256) regroup_gather(const struct regroup_table *table, const struct row_output *output)
{
	__u32 index = column<__u32>(output->row, blockIdx.x);
	const struct row *row = row_at(table, index);
	__u64 waited_ns = row->reason == READY_IDLE ? table->wait_ns : 0;

	gather_packets(table, output, index, row->present);
	if (threadIdx.x == 0) {
		gather_flow(output, row, row->present, (enum ready_reason)row->reason,
			    row->last_ns + waited_ns);
		free_row(table, index);
	}
}

KERNEL(256) regroup_early(const struct regroup_table *table, const struct row_output *output)
{
	__u32 index = column<__u32>(output->row, blockIdx.x);
	__u32 depth = column<__u8>(output->depth, blockIdx.x);
	const struct row *row = row_at(table, index);
	const struct packet_fields *packets =
		(struct packet_fields *)table->packets + (__u64)index * table->first_n;
	__u64 present = row->present & ((1ull << depth) - 1), newest_ns = 0;

	gather_packets(table, output, index, present);
	if (threadIdx.x)
		return;
	for (__u64 left = present; left; left &= left - 1) {
		__u64 timestamp_ns = packets[__ffsll(left) - 1].timestamp_ns;

		if (timestamp_ns > newest_ns)
			newest_ns = timestamp_ns;
	}
	gather_flow(output, row, present, READY_DEPTH, newest_ns);
}
