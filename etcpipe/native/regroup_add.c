// SPDX-License-Identifier: Apache-2.0
/* A batch of packets goes into the rows of their flows. */
#include "regroup_table.h"

#include <stdlib.h>

#include "link.h"

#define PREFETCH_AHEAD 8

static void store(struct regroup *r, uint32_t index, uint32_t rank,
		  const struct packet_meta *meta, const struct frame *frame,
		  const struct packet *p, const struct segment *s)
{
	struct packet_fields *f = row_packet(&r->pool, index, rank);
	uint8_t *raw = row_raw(&r->pool, index) + (size_t)rank * r->set.raw_len;

	*f = (struct packet_fields){
		.timestamp_ns = meta->timestamp_ns,
		.ip_len = s->ip_len,
		.payload_len = s->payload_len,
		.tcp_window = p->tcp_window,
		.tcp_flags = s->tcp_flags,
		.ttl = p->ttl,
		.direction = meta->direction,
		.present = 1,
	};
	if (r->set.raw_len)
		f->raw_len = mask_packet(raw, r->set.raw_len, frame, p, s, r->set.mask);
}

static int parse(const struct regroup *r, const struct packet_batch *batch, uint32_t i, struct frame *frame,
		 struct packet *p)
{
	uint64_t offset = batch->columns->offset[i];
	struct cursor c;

	frame->captured = batch->columns->captured[i];
	if (offset > batch->memory_len || frame->captured > batch->memory_len - offset)
		return -1;
	frame->data = batch->memory + offset;
	c.pos = (void *)frame->data;
	c.end = c.pos + frame->captured;
	return parse_captured(&c, batch->columns->wire_len[i], batch->link_type,
			      batch->columns->vlan[i], r->set.parse, p);
}

/* Remember which early rows ranks @new make. Returns -1 without memory. */
static int note_early(struct regroup *r, uint32_t index, uint64_t new)
{
	uint64_t due = new & r->set.early;

	for (; due; due &= due - 1) {
		if (r->n_early == r->early_room) {
			uint32_t room = r->early_room ? 2 * r->early_room : CHUNK_ROWS;
			struct early_row *early = realloc(r->early, room * sizeof(*early));

			if (!early)
				return -1;
			r->early = early;
			r->early_room = room;
		}
		r->early[r->n_early++] = (struct early_row){
			.row = index,
			.depth = __builtin_ctzll(due) + 1,
		};
	}
	return 0;
}

/*
 * After a packet was stored: the row is the most recently updated one, and perhaps complete.
 * Returns -1 without memory.
 */
static int update_row(struct regroup *r, uint32_t index, uint64_t now, uint64_t new)
{
	struct row *row = &r->pool.rows[index];

	row->present |= new;
	if (now > row->last_ns)
		row->last_ns = now;
	list_remove(&r->pool, &r->pending, index);
	list_append(&r->pool, &r->pending, index);
	if (row->present == rank_bits(r, 0, r->set.first_n))
		regroup_close(r, index, READY_DEPTH);
	else if (has_last_rank(r, row))
		r->holed = 1;
	return note_early(r, index, new);
}

/*
 * Put a packet, or all that a super-packet is, into its flow's row, if it has one already.
 * Returns the counter under which it goes, or -1 without memory.
 */
static int store_packet(struct regroup *r, const struct packet_batch *batch, uint32_t i,
			const struct packet_meta *meta, uint32_t index)
{
	struct packet p = { 0 };
	struct frame frame;
	uint32_t n, k;
	uint64_t new;

	if (parse(r, batch, i, &frame, &p))
		return REGROUP_UNPARSED;
	n = count_segments(&p, meta->segment_len);
	new = rank_bits(r, meta->rank, n);
	if (index == ROW_NONE)
		index = regroup_open(r, meta, &p);
	else
		new &= ~r->pool.rows[index].present;
	if (index == ROW_NONE)
		return -1;
	if (!new)
		return REGROUP_DUPLICATES;
	if (new >> HEAD_RANKS && row_reach(&r->pool, index))
		return -1;
	for (k = 0; k < n && meta->rank + k < r->set.first_n; k++) {
		struct segment s = segment_at(&p, meta->segment_len, k, n);

		if (new >> (meta->rank + k) & 1)
			store(r, index, meta->rank + k, meta, &frame, &p, &s);
	}
	return update_row(r, index, meta->timestamp_ns, new) ? -1 : REGROUP_STORED;
}

/* Returns the counter under which the packet goes, or -1 without memory. */
static int add_packet(struct regroup *r, const struct packet_batch *batch, uint32_t i,
		      const struct packet_meta *meta)
{
	struct slot *slot = slot_of(r, meta->flow_id);
	uint32_t index = ROW_NONE;

	if (!meta->flow_id)
		return REGROUP_UNPARSED;
	if (meta->flow_id < slot->flow_id)
		return REGROUP_STRAGGLERS;
	if (meta->flow_id == slot->flow_id) {
		index = slot->row;
		if (index == ROW_NONE)
			return REGROUP_LATE;
		if (is_idle(&r->pool.rows[index], meta->timestamp_ns, r->set.wait_ns)) {
			regroup_close(r, index, READY_IDLE);
			return REGROUP_LATE;
		}
	}
	if (meta->rank >= r->set.first_n)
		return REGROUP_BEYOND;
	return store_packet(r, batch, i, meta, index);
}

/*
 * A flow whose last rank is there and another one is not: what overtook it in the same batch
 * was still to come, so such rows are closed only at its end.
 */
static void close_holed(struct regroup *r, const struct packet_batch *batch)
{
	const uint64_t *flow_id = batch->columns->flow_id;
	uint32_t i;

	for (i = 0; r->holed && i < batch->packets; i++) {
		struct slot *slot = slot_of(r, flow_id[i]);

		if (slot->flow_id && slot->flow_id == flow_id[i] && slot->row != ROW_NONE &&
		    has_last_rank(r, &r->pool.rows[slot->row]))
			regroup_close(r, slot->row, READY_DEPTH);
	}
	r->holed = 0;
}

/* Slots and rows of interleaved flows lie anywhere: ask for them some packets ahead. */
static void prefetch(const struct regroup *r, const struct packet_batch *batch, uint32_t i)
{
	const uint64_t *flow_id = batch->columns->flow_id;
	const struct slot *slot;
	uint32_t rank;

	if (i + 2 * PREFETCH_AHEAD < batch->packets)
		__builtin_prefetch(slot_of(r, flow_id[i + 2 * PREFETCH_AHEAD]));
	if (i + PREFETCH_AHEAD >= batch->packets)
		return;
	slot = slot_of(r, flow_id[i + PREFETCH_AHEAD]);
	rank = batch->columns->rank[i + PREFETCH_AHEAD];
	if (slot->flow_id && slot->row != ROW_NONE && rank < r->set.first_n) {
		__builtin_prefetch(&r->pool.rows[slot->row], 1);
		__builtin_prefetch(row_head(&r->pool, slot->row) +
				   (rank < HEAD_RANKS ? rank : 0), 1);
	}
}

/* Flows of one slot belong to one shard: they are in each other's way as without shards. */
static int is_mine(const struct regroup *r, uint64_t flow_id)
{
	return r->set.shards == 1 || flow_id % r->set.slots % r->set.shards == r->set.shard;
}

int regroup_add(struct regroup *r, const struct packet_batch *batch, uint64_t now_ns)
{
	uint64_t newest = 0;
	uint32_t i;

	for (i = 0; i < batch->packets; i++) {
		struct packet_meta meta;
		int counter;

		if (batch->columns->timestamp_ns[i] > newest)
			newest = batch->columns->timestamp_ns[i];
		prefetch(r, batch, i);
		if (!is_mine(r, batch->columns->flow_id[i]))
			continue;
		columns_get(batch->columns, i, &meta);
		counter = add_packet(r, batch, i, &meta);
		if (counter < 0)
			return -1;
		r->counters[counter]++;
	}
	close_holed(r, batch);
	if (newest > r->clock_ns)
		r->clock_ns = newest;
	regroup_expire(r, now_ns == NOW_NEWEST ? newest : now_ns);
	return 0;
}
