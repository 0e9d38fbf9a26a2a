/* SPDX-License-Identifier: Apache-2.0 */
/* A flow while its columns are computed. */
#ifndef ETCPIPE_FEATURE_FLOW_H
#define ETCPIPE_FEATURE_FLOW_H

#include "feature_rows.h"
#include "etcpipe.h"

#include <stdbool.h>

#define MISSING -1.0
#define NS 1e9
#define VALUE_SIZES N_NAMED_VALUES
#define VALUE_GAPS (VALUE_SIZES + FEATURE_FIRST_K)
#define VALUE_STATISTICS (VALUE_GAPS + FEATURE_FIRST_K)
#define N_VALUES (VALUE_STATISTICS + 2 * N_QUANTITIES * N_STATISTICS)
#define HAS(bits, bit) ((bits) >> (bit) & 1)

/* The packets of a flow that are looked at, and the values that columns are picked from. */
struct flow {
	const struct packet_fields *packets[FIRST_N_MAX];
	__u8 of_side[2][FIRST_N_MAX];	/* their places, by side */
	__u32 side_n[2];
	__u32 n;
	bool is_tcp;
	double time[FIRST_N_MAX];	/* ns since the first one, with PART_TIMES */
	double values[N_VALUES];
};

static inline double not_negative(double x)
{
	return x > 0 ? x : 0;
}

/* Where the statistics of a quantity of one side begin. */
static inline double *statistics_of(struct flow *flow, __u32 side, __u32 quantity)
{
	return &flow->values[VALUE_STATISTICS + (side * N_QUANTITIES + quantity) * N_STATISTICS];
}

/* Compute the columns of flow number @i and write its row; @flow is room, zero at first. */
void features_of_flow(struct flow *flow, const struct feature_plan *plan,
		      const struct feature_flows *flows, __u32 i);
/* Compute the statistics of a lane, as far as its kinds say. */
void feature_put_lane(struct flow *flow, const struct feature_lane *lane);

#endif /* ETCPIPE_FEATURE_FLOW_H */
