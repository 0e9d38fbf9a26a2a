/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernels of regrouping share: the table of open rows. */
#ifndef ETCPIPE_REGROUP_ROWS_CUH
#define ETCPIPE_REGROUP_ROWS_CUH

#include "packets.cuh"

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

static inline __device__ __u64 slot_of(const struct regroup_table *table, __u64 flow_id)
{
	return flow_id % table->slots;
}

#endif /* ETCPIPE_REGROUP_ROWS_CUH */
