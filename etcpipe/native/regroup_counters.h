/* SPDX-License-Identifier: Apache-2.0 */
/* What regrouping counts, on the CPU and on a GPU. */
#ifndef ETCPIPE_REGROUP_COUNTERS_H
#define ETCPIPE_REGROUP_COUNTERS_H

/* In the order of COUNTERS in gpu/regroup.py. A packet counts under one of the first six. */
enum regroup_counter {
	REGROUP_STORED,
	REGROUP_DUPLICATES,
	REGROUP_LATE,
	REGROUP_STRAGGLERS,
	REGROUP_BEYOND,
	REGROUP_UNPARSED,
	REGROUP_FLOWS,
	REGROUP_LOST,
	REGROUP_EVICTED,
	REGROUP_POOL_FULL,
	REGROUP_LEFT,
	N_REGROUP_COUNTERS,
};

#endif /* ETCPIPE_REGROUP_COUNTERS_H */
