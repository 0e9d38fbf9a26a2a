// SPDX-License-Identifier: Apache-2.0
/* Rows go out: early ones, of flows that go on, and closed ones. */
#include "regroup_table.h"

/* Copy what a row holds of ranks @present into place @i. */
static void copy_out(const struct regroup *r, uint32_t index, uint64_t present,
		     const struct flow_columns *out, size_t i)
{
	const struct row *row = &r->pool.rows[index];
	size_t first_n = r->set.first_n;

	out->flow_id[i] = row->flow_id;
	out->key[i] = *row_key(&r->pool, index);
	out->initiator[i] = row->initiator;
	out->vlan[i] = row->vlan;
	out->ifindex[i] = row->ifindex;
	out->lost[i] = ranks_lost(present);
	row_copy(&r->pool, index, present, out->packets + i * first_n,
		 out->raw + i * first_n * r->set.raw_len);
}

static uint64_t newest_packet(const struct packet_fields *packets, uint32_t ranks)
{
	uint64_t newest = 0;
	uint32_t rank;

	for (rank = 0; rank < ranks; rank++)
		if (packets[rank].timestamp_ns > newest)
			newest = packets[rank].timestamp_ns;
	return newest;
}

void regroup_take_early(struct regroup *r, const struct flow_columns *out)
{
	uint32_t i;

	for (i = 0; i < r->n_early; i++) {
		const struct early_row *early = &r->early[i];
		uint64_t present = r->pool.rows[early->row].present & rank_bits(r, 0, early->depth);

		copy_out(r, early->row, present, out, i);
		out->reason[i] = READY_DEPTH;
		out->ready_ns[i] = newest_packet(out->packets + (size_t)i * r->set.first_n,
						 early->depth);
		out->depth[i] = early->depth;
	}
	r->n_early = 0;
}

void regroup_take(struct regroup *r, const struct flow_columns *out)
{
	uint32_t i;

	for (i = 0; r->closed.count; i++) {
		uint32_t index = r->closed.oldest;
		const struct row *row = &r->pool.rows[index];

		copy_out(r, index, row->present, out, i);
		out->reason[i] = row->reason;
		out->ready_ns[i] = row->last_ns + (row->reason == READY_IDLE ? r->set.wait_ns : 0);
		list_remove(&r->pool, &r->closed, index);
		pool_give_back(&r->pool, index);
	}
}
