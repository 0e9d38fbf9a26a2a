// SPDX-License-Identifier: Apache-2.0
/*
 * Columns about whole flows. Sums are of whole numbers in double, exact up to 2**53, and what
 * is not exact is summed in the order of ranks, so that the bits are those of NumPy. No
 * product may be fused with a sum: setup.py compiles with -ffp-contract=off.
 */
#include "feature_flow.h"

#include <netinet/in.h>
#include <stdint.h>

#define FLAG_BITS 8
#define TCP_SYN 0x02
#define TCP_ACK 0x10

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

static void set_times(struct flow *flow)
{
	__u32 i;

	for (i = 0; i < flow->n; i++)
		flow->time[i] = (double)(__s64)(flow->packets[i]->timestamp_ns -
						flow->packets[0]->timestamp_ns);
}

static inline double bytes_sum(struct flow *flow, __u32 side)
{
	return statistics_of(flow, side, QUANTITY_BYTES)[STATISTIC_SUM];
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
	const struct feature_lane *lanes = (const struct feature_lane *)(uintptr_t)plan->lanes;
	double *values = flow->values;
	__u32 i;

	values[VALUE_S_PKT_CNT] = flow->side_n[0];
	values[VALUE_D_PKT_CNT] = flow->side_n[1];
	values[VALUE_D_PKT_SHARE] = flow->n ? (double)flow->side_n[1] / flow->n : MISSING;
	if (HAS(plan->parts, PART_TIMES))
		set_times(flow);
	for (i = 0; i < plan->n_lanes; i++)
		feature_put_lane(flow, &lanes[i]);
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

void features_of_flow(struct flow *flow, const struct feature_plan *plan,
		      const struct feature_flows *flows, __u32 i)
{
	const struct packet_fields *packets = (const struct packet_fields *)(uintptr_t)flows->packets;
	const struct flow_key *key = (const struct flow_key *)(uintptr_t)flows->key;
	const __u8 *initiator = (const __u8 *)(uintptr_t)flows->initiator;
	const __u16 *columns = (const __u16 *)(uintptr_t)plan->columns;
	float *row = (float *)(uintptr_t)flows->rows + (__u64)i * plan->n_columns;
	__u32 column;

	take_packets(flow, packets + (__u64)i * flows->first_n, flows->first_n, plan->depth);
	put_key(flow, &key[i], initiator[i] == 1);
	put_values(flow, plan);
	for (column = 0; column < plan->n_columns; column++)
		row[column] = flow->values[columns[column]];
}
