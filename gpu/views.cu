// SPDX-License-Identifier: Apache-2.0
/*
 * The model inputs from rows as regroup_gather() wrote them: gpu/views.py declares them,
 * gpu/views_cpu.py is the definition. Sums are in double and in the order of ranks, products
 * and sums are rounded each by itself, so that the same bits come out.
 */
#include "packets.cuh"
#include "view_columns.h"

#define MISSING -1.0
#define NS 1e9
#define FLAG_BITS 8

/* A flow's packets, of which the first `depth` that are there are looked at. */
struct flow_view {
	const struct packet_fields *packets;
	__u64 taken;		/* bits by rank */
	__u64 sent[2];		/* of these, from the initiator and towards it */
	__u64 start_ns;		/* of the first one taken */
	__u32 ranks;
};

/* Statistics of one quantity of one direction. */
struct statistics {
	double sum;
	double mean;
	double min;
	double max;
	double med;
	double std;
};

static inline __device__ struct flow_view view_of(const struct view_input *input, __u32 flow)
{
	const __u32 first_n = input->first_n;
	struct flow_view view = {};
	__u32 left = input->depth;

	view.packets = (const struct packet_fields *)input->packets + (__u64)flow * first_n;
	view.ranks = first_n;
	for (__u32 rank = 0; rank < first_n && left; rank++) {
		const struct packet_fields *packet = &view.packets[rank];

		if (!packet->present)
			continue;
		view.taken |= 1ull << rank;
		view.sent[packet->direction == 1] |= 1ull << rank;
		left--;
	}
	if (first_n)
		view.start_ns = view.packets[view.taken ? __ffsll(view.taken) - 1 : 0].timestamp_ns;
	return view;
}

static inline __device__ double time_at(const struct flow_view *view, __u32 rank)
{
	return (double)(long long)(view->packets[rank].timestamp_ns - view->start_ns);
}

static inline __device__ double not_negative(double x)
{
	return x > 0 ? x : 0;
}

static inline __device__ void sort_values(double *values, __u32 n)
{
	for (__u32 i = 1; i < n; i++) {
		double value = values[i];
		__u32 at = i;

		for (; at && values[at - 1] > value; at--)
			values[at] = values[at - 1];
		values[at] = value;
	}
}

/* Statistics of @n values / @scale, which are sorted by it. */
static __device__ __noinline__ struct statistics statistics_of(double *values, __u32 n,
							       double scale)
{
	struct statistics found = { 0, MISSING, MISSING, MISSING, MISSING, MISSING };
	double sum = 0, mean, squares = 0;

	if (!n)
		return found;
	for (__u32 i = 0; i < n; i++)
		sum += values[i];
	mean = sum / n;
	for (__u32 i = 0; i < n; i++)
		squares += (values[i] - mean) * (values[i] - mean);
	sort_values(values, n);
	found.sum = sum / scale;
	found.mean = mean / scale;
	found.min = values[0] / scale;
	found.max = values[n - 1] / scale;
	found.med = (values[(n - 1) / 2] + values[n / 2]) / 2 / scale;
	found.std = sqrt(squares / n) / scale;
	return found;
}

enum quantity {
	BYTES,
	IAT,
	WINSIZE,
	TTL,
};

/* The values of a quantity over some packets. Returns how many there are. */
static __device__ __noinline__ __u32 values_of(const struct flow_view *view,
					       enum quantity quantity, __u64 chosen,
					       double *values)
{
	double previous = 0, now;
	__u32 n = 0, seen = 0;

	for (__u64 left = chosen; left; left &= left - 1, seen++) {
		__u32 rank = __ffsll(left) - 1;
		const struct packet_fields *packet = &view->packets[rank];

		switch (quantity) {
		case BYTES:
			values[n++] = packet->ip_len;
			break;
		case WINSIZE:
			values[n++] = packet->tcp_window;
			break;
		case TTL:
			values[n++] = packet->ttl;
			break;
		case IAT:
			now = time_at(view, rank);
			if (seen)
				values[n++] = not_negative(now - previous);
			previous = now;
			break;
		}
	}
	return n;
}

/* Columns of the two directions lie side by side. */
#define PUT(values, side, NAME, found)					\
	do {								\
		(values)[STATS_S_##NAME##_SUM + (side)] = (found).sum;	\
		(values)[STATS_S_##NAME##_MEAN + (side)] = (found).mean;	\
		(values)[STATS_S_##NAME##_MIN + (side)] = (found).min;	\
		(values)[STATS_S_##NAME##_MAX + (side)] = (found).max;	\
		(values)[STATS_S_##NAME##_MED + (side)] = (found).med;	\
		(values)[STATS_S_##NAME##_STD + (side)] = (found).std;	\
	} while (0)

static_assert(STATS_D_BYTES_SUM == STATS_S_BYTES_SUM + 1 && STATS_D_IAT_STD == STATS_S_IAT_STD + 1,
	      "directions side by side");

static inline __device__ void put_side(const struct flow_view *view, __u32 side, bool is_tcp,
				       double dur_ns, double *values)
{
	double room[FIRST_N_MAX];
	struct statistics found;
	__u64 sent = view->sent[side];

	found = statistics_of(room, values_of(view, BYTES, sent, room), 1);
	PUT(values, side, BYTES, found);
	values[STATS_S_LOAD + side] = dur_ns > 0 ? 8 * found.sum / dur_ns * NS : MISSING;
	values[STATS_S_PKT_CNT + side] = __popcll(sent);
	found = statistics_of(room, values_of(view, IAT, sent, room), NS);
	PUT(values, side, IAT, found);
	found = statistics_of(room, values_of(view, WINSIZE, is_tcp ? sent : 0, room), 1);
	PUT(values, side, WINSIZE, found);
	found = statistics_of(room, values_of(view, TTL, sent, room), 1);
	PUT(values, side, TTL, found);
}

/* The first of some packets behind @after with all flags of @wanted and none of @unwanted. */
static inline __device__ __u32 first_with(const struct flow_view *view, __u64 chosen, int after,
					  __u8 wanted, __u8 unwanted)
{
	for (__u64 left = chosen; left; left &= left - 1) {
		int rank = __ffsll(left) - 1;
		__u8 flags = view->packets[rank].tcp_flags;

		if (rank > after && (flags & wanted) == wanted && !(flags & unwanted))
			return rank;
	}
	return view->ranks;
}

static inline __device__ double seconds_between(const struct flow_view *view, __u32 from, __u32 to)
{
	if (to >= view->ranks)
		return MISSING;
	return not_negative(time_at(view, to) - time_at(view, from)) / NS;
}

static inline __device__ void put_handshake(const struct flow_view *view, double *values)
{
	__u32 syn = first_with(view, view->sent[0], -1, TCP_SYN, TCP_ACK);
	__u32 answer = first_with(view, view->sent[1], syn, TCP_SYN | TCP_ACK, 0);
	__u32 ack = first_with(view, view->sent[0], answer, TCP_ACK, TCP_SYN);

	values[STATS_SYN_ACK] = seconds_between(view, syn, answer);
	values[STATS_TCP_RTT] = seconds_between(view, syn, ack);
	values[STATS_ACK_DAT] = seconds_between(view, answer, ack);
}

static inline __device__ void put_flags(const struct flow_view *view, double *values)
{
	for (__u32 bit = 0; bit < FLAG_BITS; bit++) {
		__u32 n = 0;

		for (__u64 left = view->taken; left; left &= left - 1)
			n += view->packets[__ffsll(left) - 1].tcp_flags >> bit & 1;
		values[STATS_FIN_CNT - bit] = n;	/* from the highest bit down */
	}
}

static_assert(STATS_FIN_CNT == STATS_CWR_CNT + FLAG_BITS - 1, "flags side by side");

static inline __device__ void put_flow(const struct view_input *input, __u32 flow,
				       const struct flow_view *view, double *values)
{
	const struct flow_key *key = (const struct flow_key *)input->key + flow;
	bool opened_by_b = column<__u8>(input->initiator, flow) == 1;
	__u32 last = view->taken ? 63 - __clzll(view->taken) : view->ranks - 1;
	double dur_ns = not_negative(time_at(view, last));
	__u16 a_port = NET16(key->a_port), b_port = NET16(key->b_port);

	values[STATS_DUR] = view->taken ? dur_ns / NS : MISSING;
	values[STATS_PROTO] = key->protocol;
	values[STATS_S_PORT] = opened_by_b ? b_port : a_port;
	values[STATS_D_PORT] = opened_by_b ? a_port : b_port;
	for (__u32 side = 0; side < 2; side++)
		put_side(view, side, key->protocol == IPPROTO_TCP, dur_ns, values);
	put_handshake(view, values);
	put_flags(view, values);
}

/* A thread a flow: the chosen ones of all columns. */
KERNEL(64) view_stats(const struct view_input *input, const struct view_output *output)
{
	for (__u32 flow = grid_thread(); flow < input->flows; flow += grid_threads()) {
		struct flow_view view = view_of(input, flow);
		double values[N_STATS];

		put_flow(input, flow, &view, values);
		for (__u32 i = 0; i < output->columns; i++)
			((float *)output->rows)[(__u64)flow * output->columns + i] =
				(float)values[column<__u8>(output->chosen, i)];
	}
}

/* A thread a flow: size, direction and gap of each rank, zeros where there is no packet. */
KERNEL(64) view_seq(const struct view_input *input, const struct view_output *output)
{
	for (__u32 flow = grid_thread(); flow < input->flows; flow += grid_threads()) {
		struct flow_view view = view_of(input, flow);
		float *row = (float *)output->rows + (__u64)flow * output->ranks * output->columns;
		double previous = 0;
		bool seen = false;

		for (__u32 rank = 0; rank < output->ranks; rank++, row += output->columns) {
			bool taken = rank < view.ranks && view.taken >> rank & 1;
			double now = taken ? time_at(&view, rank) : 0;

			row[0] = taken ? (float)(view.packets[rank].ip_len / 1500.0) : 0;
			row[1] = taken ? (float)(1 - 2.0 * view.packets[rank].direction) : 0;
			row[2] = taken && seen ?
					 (float)(log1p(not_negative(now - previous) / 1e3) / 16) : 0;
			if (taken)
				previous = now;
			seen |= taken;
		}
	}
}

/* A warp a packet: its raw bytes, zeros where there is none. */
KERNEL(256) view_raw(const struct view_input *input, const struct view_output *output)
{
	const __u64 cells = (__u64)input->flows * output->ranks;

	for (__u64 cell = grid_warp(); cell < cells; cell += grid_warps()) {
		__u32 flow = cell / output->ranks, rank = cell % output->ranks;
		__u8 *to = (__u8 *)output->rows + cell * output->columns;
		__u64 from = ((__u64)flow * input->first_n + rank) * input->raw_len;
		struct flow_view view = view_of(input, flow);

		if (rank < view.ranks && view.taken >> rank & 1)
			warp_copy(to, (const __u8 *)input->raw + from, output->columns);
		else
			warp_fill(to, 0, output->columns);
	}
}
