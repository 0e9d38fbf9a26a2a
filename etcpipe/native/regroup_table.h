/* SPDX-License-Identifier: Apache-2.0 */
/* The table of slots and open rows: between regroup.c, regroup_add.c and regroup_take.c. */
#ifndef ETCPIPE_REGROUP_TABLE_H
#define ETCPIPE_REGROUP_TABLE_H

#include "regroup.h"

static inline struct slot *slot_of(const struct regroup *r, uint64_t flow_id)
{
	return &r->slots[flow_id % r->set.slots];
}

static inline int is_idle(const struct row *row, uint64_t now, uint64_t wait)
{
	return now > row->last_ns && now - row->last_ns > wait;
}

static inline int has_last_rank(const struct regroup *r, const struct row *row)
{
	return row->present >> (r->set.first_n - 1) & 1;
}

/* Bits of the @n ranks from @rank on, as far as they are below first_n. */
static inline uint64_t rank_bits(const struct regroup *r, uint32_t rank, uint32_t n)
{
	uint32_t end = n < r->set.first_n - rank ? rank + n : r->set.first_n;

	return (end == 64 ? 0 : 1ull << end) - (1ull << rank);
}

void regroup_close(struct regroup *r, uint32_t index, enum ready_reason reason);
/* Begin a flow's row. Returns ROW_NONE without memory. */
uint32_t regroup_open(struct regroup *r, const struct packet_meta *meta, const struct packet *p);

#endif /* ETCPIPE_REGROUP_TABLE_H */
