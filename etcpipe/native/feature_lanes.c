// SPDX-License-Identifier: Apache-2.0
/* Statistics of one quantity of one side of a flow. */
#include "feature_flow.h"

#include <math.h>

#define SORTED_MAX 16		/* values; where there are more, selecting is faster than sorting */

struct statistics {
	double sum;
	double min;
	double max;
	__u32 n;
	double values[FIRST_N_MAX];
};

static inline void add_value(struct statistics *found, double value)
{
	found->sum += value;
	found->min = value < found->min ? value : found->min;
	found->max = value > found->max ? value : found->max;
	found->values[found->n++] = value;
}

/* A field of the packets of one side. */
#define ADD_FIELD(found, flow, side, field)						\
	do {										\
		for (__u32 i_ = 0; i_ < (flow)->side_n[side]; i_++)			\
			add_value(found,						\
				  (flow)->packets[(flow)->of_side[side][i_]]->field);	\
	} while (0)

static void add_quantity(struct statistics *found, const struct flow *flow,
			 const struct feature_lane *lane)
{
	const __u8 *places = flow->of_side[lane->side];
	__u32 i;

	switch (lane->quantity) {
	case QUANTITY_BYTES:
		ADD_FIELD(found, flow, lane->side, ip_len);
		break;
	case QUANTITY_TTL:
		ADD_FIELD(found, flow, lane->side, ttl);
		break;
	case QUANTITY_PAYLOAD:
		ADD_FIELD(found, flow, lane->side, payload_len);
		break;
	case QUANTITY_WINSIZE:
		if (flow->is_tcp)
			ADD_FIELD(found, flow, lane->side, tcp_window);
		break;
	case QUANTITY_IAT:
		for (i = 1; i < flow->side_n[lane->side]; i++)
			add_value(found, not_negative(flow->time[places[i]] -
						      flow->time[places[i - 1]]));
		break;
	case QUANTITY_GAP:
		for (i = 1; i < flow->n; i++)
			add_value(found, not_negative(flow->time[i] - flow->time[i - 1]));
		break;
	}
}

static void sort_values(double *values, __u32 n)
{
	__u32 i, at;

	for (i = 1; i < n; i++) {
		double value = values[i];

		for (at = i; at && values[at - 1] > value; at--)
			values[at] = values[at - 1];
		values[at] = value;
	}
}

/* Put the k-th smallest value at its place, smaller ones before it (Hoare's FIND). */
static void select_value(double *values, int n, int k)
{
	int low = 0, high = n - 1;

	while (low < high) {
		double pivot = values[k], swapped;
		int i = low, j = high;

		while (i <= j) {
			while (values[i] < pivot)
				i++;
			while (values[j] > pivot)
				j--;
			if (i > j)
				break;
			swapped = values[i];
			values[i++] = values[j];
			values[j--] = swapped;
		}
		if (j < k)
			low = i;
		if (i > k)
			high = j;
	}
}

/* Returns the sum of the middle two values, or of the middle one and itself. */
static double middle_sum(double *values, __u32 n)
{
	double below;
	__u32 i;

	if (n <= SORTED_MAX) {
		sort_values(values, n);
		return values[(n - 1) / 2] + values[n / 2];
	}
	select_value(values, n, n / 2);
	if (n % 2)
		return values[n / 2] + values[n / 2];
	below = values[0];
	for (i = 1; i < n / 2; i++)
		below = values[i] > below ? values[i] : below;
	return below + values[n / 2];
}

void feature_put_lane(struct flow *flow, const struct feature_lane *lane)
{
	double *to = statistics_of(flow, lane->side, lane->quantity);
	double scale = lane->quantity == QUANTITY_IAT || lane->quantity == QUANTITY_GAP ? NS : 1;
	struct statistics found;
	double mean, squares = 0;
	__u32 i;

	found.sum = found.max = found.n = 0;
	found.min = INFINITY;
	add_quantity(&found, flow, lane);
	to[STATISTIC_SUM] = found.sum / scale;
	if (!found.n) {
		for (i = STATISTIC_MEAN; i < N_STATISTICS; i++)
			to[i] = MISSING;
		return;
	}
	mean = found.sum / found.n;
	to[STATISTIC_MEAN] = mean / scale;
	to[STATISTIC_MIN] = found.min / scale;
	to[STATISTIC_MAX] = found.max / scale;
	if (HAS(lane->kinds, KIND_SQUARES)) {
		for (i = 0; i < found.n; i++)
			squares += (found.values[i] - mean) * (found.values[i] - mean);
		to[STATISTIC_STD] = sqrt(squares / found.n) / scale;
	}
	if (HAS(lane->kinds, KIND_VALUES))
		to[STATISTIC_MED] = middle_sum(found.values, found.n) / 2 / scale;
}
