// SPDX-License-Identifier: Apache-2.0
/* Rows are opened and closed: because a packet says so, time passed, or a flow had its answer. */
#include "regroup_table.h"

#include <stdlib.h>

struct regroup *regroup_new(const struct regroup_settings *settings)
{
	struct regroup *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->set = *settings;
	r->slots = calloc(settings->slots, sizeof(*r->slots));
	if (!r->slots) {
		free(r);
		return NULL;
	}
	pool_init(&r->pool, settings->first_n, settings->raw_len);
	list_init(&r->pending);
	list_init(&r->closed);
	return r;
}

void regroup_free(struct regroup *r)
{
	pool_free(&r->pool);
	free(r->early);
	free(r->slots);
	free(r);
}

/* Whatever closes a row that has its last rank, it was complete. */
void regroup_close(struct regroup *r, uint32_t index, enum ready_reason reason)
{
	struct row *row = &r->pool.rows[index];

	row->reason = has_last_rank(r, row) ? READY_DEPTH : reason;
	slot_of(r, row->flow_id)->row = ROW_NONE;
	r->counters[REGROUP_LOST] += ranks_lost(row->present);
	list_remove(&r->pool, &r->pending, index);
	list_append(&r->pool, &r->closed, index);
}

/* Close a row whose place is needed; it was idle anyway if its flow said nothing for so long. */
static void make_room(struct regroup *r, uint32_t index, uint64_t now, enum regroup_counter why)
{
	int idle = is_idle(&r->pool.rows[index], now, r->set.wait_ns);

	regroup_close(r, index, idle ? READY_IDLE : READY_EVICTED);
	if (r->pool.rows[index].reason == READY_EVICTED)
		r->counters[why]++;
}

uint32_t regroup_open(struct regroup *r, const struct packet_meta *meta, const struct packet *p)
{
	struct slot *slot = slot_of(r, meta->flow_id);
	uint32_t index;

	if (slot->flow_id && slot->row != ROW_NONE)
		make_room(r, slot->row, meta->timestamp_ns, REGROUP_EVICTED);
	if (r->pending.count >= r->set.max_rows)
		make_room(r, r->pending.oldest, meta->timestamp_ns, REGROUP_POOL_FULL);
	index = pool_take(&r->pool);
	if (index == ROW_NONE)
		return index;
	r->pool.rows[index] = (struct row){
		.flow_id = meta->flow_id,
		.ifindex = meta->ifindex,
		.vlan = meta->vlan,
		.initiator = (p->from_b ^ meta->direction) & 1,
	};
	*row_key(&r->pool, index) = p->key;
	list_append(&r->pool, &r->pending, index);
	*slot = (struct slot){ .flow_id = meta->flow_id, .row = index };
	r->counters[REGROUP_FLOWS]++;
	return index;
}

void regroup_expire(struct regroup *r, uint64_t now_ns)
{
	uint32_t n = 0;

	while (n++ < r->set.expire_max && r->pending.count &&
	       is_idle(&r->pool.rows[r->pending.oldest], now_ns,
		       r->set.wait_ns + r->set.grace_ns))
		regroup_close(r, r->pending.oldest, READY_IDLE);
}

void regroup_flush(struct regroup *r)
{
	while (r->pending.count) {
		uint32_t index = r->pending.oldest;
		int idle = is_idle(&r->pool.rows[index], r->clock_ns, r->set.wait_ns);

		regroup_close(r, index, idle ? READY_IDLE : READY_END);
	}
}

void regroup_leave(struct regroup *r, const uint64_t *flow_id, uint32_t flows)
{
	uint32_t i;

	for (i = 0; i < flows; i++) {
		struct slot *slot = slot_of(r, flow_id[i]);
		uint32_t index = slot->row;

		if (!flow_id[i] || slot->flow_id != flow_id[i] || index == ROW_NONE)
			continue;
		slot->row = ROW_NONE;
		r->counters[REGROUP_LEFT]++;
		r->counters[REGROUP_LOST] += ranks_lost(r->pool.rows[index].present);
		list_remove(&r->pool, &r->pending, index);
		pool_give_back(&r->pool, index);
	}
}
