// SPDX-License-Identifier: Apache-2.0
/*
 * Columns about whole flows. Sums are of whole numbers in double, exact up to 2**53, and what
 * is not exact is summed in the order of ranks, so that the bits are those of NumPy. No
 * product may be fused with a sum: setup.py compiles with -ffp-contract=off.
 */
#include "feature_rows.h"
#include "etcpipe.h"

#include <math.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#define MISSING -1.0
#define NS 1e9
#define FLAG_BITS 8
#define TCP_SYN 0x02
#define TCP_ACK 0x10
#define SORTED_MAX 16		/* values; where there are more, selecting is faster than sorting */

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

struct statistics {
	double sum;
	double min;
	double max;
	__u32 n;
	double values[FIRST_N_MAX];
};

static inline double not_negative(double x)
{
	return x > 0 ? x : 0;
}

static void take_packets(struct flow *flow, const struct packet_fields *packets, __u32 first_n,
			 __u32 depth)
{
	__u32 rank, side;

	flow->n = flow->side_n[0] = flow->side_n[1] = 0;
	for (rank = 0; rank < first_n && flow->n < depth; rank++) {
		if (!packets[rank].present)
			continue;
		side = packets[rank].direction == 1;
		flow->of_side[side][flow->side_n[side]++] = flow->n;
		flow->packets[flow->n++] = &packets[rank];
	}
}

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

static void put_lane(struct flow *flow, const struct feature_lane *lane)
{
	double *to = &flow->values[VALUE_STATISTICS +
				   (lane->side * N_QUANTITIES + lane->quantity) * N_STATISTICS];
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

static void set_times(struct flow *flow)
{
	__u32 i;

	for (i = 0; i < flow->n; i++)
		flow->time[i] = (double)(__s64)(flow->packets[i]->timestamp_ns -
						flow->packets[0]->timestamp_ns);
}

static inline double bytes_sum(const struct flow *flow, __u32 side)
{
	return flow->values[VALUE_STATISTICS +
			    (side * N_QUANTITIES + QUANTITY_BYTES) * N_STATISTICS + STATISTIC_SUM];
}

/* Sums of bytes of a side that no column needs are wrong, and not looked at. */
static void put_totals(struct flow *flow)
{
	double *values = flow->values, dur_ns = 0;
	double both = bytes_sum(flow, 0) + bytes_sum(flow, 1);
	__u32 side;

	if (flow->n)
		dur_ns = not_negative(flow->time[flow->n - 1]);
	values[VALUE_DUR] = flow->n ? dur_ns / NS : MISSING;
	for (side = 0; side < 2; side++)
		values[VALUE_S_LOAD + side] =
			dur_ns > 0 ? 8 * bytes_sum(flow, side) / dur_ns * NS : MISSING;
	values[VALUE_D_BYTES_SHARE] = both > 0 ? bytes_sum(flow, 1) / both : MISSING;
}

static void put_handshake(struct flow *flow)
{
	double at[3] = { 0 }, *values = flow->values;
	__u32 i, seen = 0;

	for (i = 0; i < flow->n && seen < 3; i++) {
		const struct packet_fields *packet = flow->packets[i];
		__u8 flags = packet->tcp_flags & (TCP_SYN | TCP_ACK);
		bool is_answer = packet->direction == 1;

		if ((seen == 0 && !is_answer && flags == TCP_SYN) ||
		    (seen == 1 && is_answer && flags == (TCP_SYN | TCP_ACK)) ||
		    (seen == 2 && !is_answer && flags == TCP_ACK))
			at[seen++] = flow->time[i];
	}
	values[VALUE_SYN_ACK] = seen > 1 ? not_negative(at[1] - at[0]) / NS : MISSING;
	values[VALUE_TCP_RTT] = seen > 2 ? not_negative(at[2] - at[0]) / NS : MISSING;
	values[VALUE_ACK_DAT] = seen > 2 ? not_negative(at[2] - at[1]) / NS : MISSING;
}

static void put_flags(struct flow *flow)
{
	__u8 counts[FLAG_BITS] = { 0 };
	__u32 i, bit;

	for (i = 0; i < flow->n; i++)
		for (bit = 0; bit < FLAG_BITS; bit++)
			counts[bit] += HAS(flow->packets[i]->tcp_flags, bit);
	for (bit = 0; bit < FLAG_BITS; bit++)
		flow->values[VALUE_FIN_CNT + bit] = counts[bit];
}

static void put_bursts(struct flow *flow)
{
	__u64 packets = 0, bytes = 0, most[2] = { 0 }, most_bytes[2] = { 0 };
	__u32 i, side, before = 2, bursts = 0;

	for (i = 0; i < flow->n; i++) {
		side = flow->packets[i]->direction == 1;
		if (side != before) {
			bursts++;
			packets = bytes = 0;
		}
		before = side;
		packets++;
		bytes += flow->packets[i]->ip_len;
		if (packets > most[side])
			most[side] = packets;
		if (bytes > most_bytes[side])
			most_bytes[side] = bytes;
	}
	flow->values[VALUE_BURST_CNT] = bursts;
	for (side = 0; side < 2; side++) {
		flow->values[VALUE_S_BURST_PKTS_MAX + side] = most[side];
		flow->values[VALUE_S_BURST_BYTES_MAX + side] = most_bytes[side];
	}
}

static void put_entropies(struct flow *flow, const double *log2_of)
{
	__u32 side, i, bin, n;

	for (side = 0; side < 2; side++) {
		__u8 counts[FEATURE_SIZE_BINS] = { 0 };
		double inside = 0;

		n = flow->side_n[side];
		for (i = 0; i < n; i++) {
			bin = flow->packets[flow->of_side[side][i]]->ip_len / FEATURE_SIZE_BIN;
			counts[bin < FEATURE_SIZE_BINS ? bin : FEATURE_SIZE_BINS - 1]++;
		}
		for (bin = 0; bin < FEATURE_SIZE_BINS; bin++)
			inside += counts[bin] * log2_of[counts[bin]];
		flow->values[VALUE_S_SIZE_ENTROPY + side] =
			n ? not_negative(log2_of[n] - inside / n) : MISSING;
	}
}

static void put_each(struct flow *flow)
{
	double *sizes = &flow->values[VALUE_SIZES], *gaps = &flow->values[VALUE_GAPS];
	__u32 i;

	for (i = 0; i < FEATURE_FIRST_K; i++) {
		sizes[i] = gaps[i] = MISSING;
		if (i >= flow->n)
			continue;
		sizes[i] = flow->packets[i]->ip_len;
		if (flow->packets[i]->direction == 1)
			sizes[i] = -sizes[i];
		gaps[i] = i ? not_negative(flow->time[i] - flow->time[i - 1]) / NS : 0;
	}
}

static void put_key(struct flow *flow, const struct flow_key *key, bool opened_by_b)
{
	double *values = flow->values;

	flow->is_tcp = key->protocol == IPPROTO_TCP;
	values[VALUE_PROTO] = key->protocol;
	values[VALUE_S_PORT] = ntohs(opened_by_b ? key->b_port : key->a_port);
	values[VALUE_D_PORT] = ntohs(opened_by_b ? key->a_port : key->b_port);
}

static void put_values(struct flow *flow, const struct feature_plan *plan)
{
	const struct feature_lane *lanes = (const void *)(uintptr_t)plan->lanes;
	double *values = flow->values;
	__u32 i;

	values[VALUE_S_PKT_CNT] = flow->side_n[0];
	values[VALUE_D_PKT_CNT] = flow->side_n[1];
	values[VALUE_D_PKT_SHARE] = flow->n ? (double)flow->side_n[1] / flow->n : MISSING;
	if (HAS(plan->parts, PART_TIMES))
		set_times(flow);
	for (i = 0; i < plan->n_lanes; i++)
		put_lane(flow, &lanes[i]);
	if (HAS(plan->parts, PART_TOTALS))
		put_totals(flow);
	if (HAS(plan->parts, PART_HANDSHAKE))
		put_handshake(flow);
	if (HAS(plan->parts, PART_FLAGS))
		put_flags(flow);
	if (HAS(plan->parts, PART_BURSTS))
		put_bursts(flow);
	if (HAS(plan->parts, PART_BINS))
		put_entropies(flow, (const double *)(uintptr_t)plan->log2);
	if (HAS(plan->parts, PART_EACH))
		put_each(flow);
}

void features_compute(const struct feature_plan *plan, const struct feature_flows *flows)
{
	const struct packet_fields *packets = (const void *)(uintptr_t)flows->packets;
	const struct flow_key *key = (const void *)(uintptr_t)flows->key;
	const __u8 *initiator = (const __u8 *)(uintptr_t)flows->initiator;
	const __u16 *columns = (const __u16 *)(uintptr_t)plan->columns;
	float *row = (float *)(uintptr_t)flows->rows;
	struct flow flow = { 0 };
	__u32 i, column;

	for (i = 0; i < flows->flows; i++) {
		take_packets(&flow, packets, flows->first_n, plan->depth);
		put_key(&flow, &key[i], initiator[i] == 1);
		put_values(&flow, plan);
		for (column = 0; column < plan->n_columns; column++)
			*row++ = flow.values[columns[column]];
		packets += flows->first_n;
	}
}
