// SPDX-License-Identifier: Apache-2.0
/*
 * The model inputs from rows as regroup_gather() wrote them: gpu/views.py declares them,
 * gpu/views_cpu.py and features_cpu.py are the definitions. Columns, tokens and bits are computed by
 * the C of the native extension. Products and sums are rounded each by itself, so that the same
 * bits come out.
 */
#include "packets.cuh"

#define ntohs(port) NET16(port)
#include "feature_lanes.c"
#include "feature_rows.c"
#undef ntohs

#define LANE ((int)lane_id())
#define LANES WARP
#include "tokens.c"
#include "bits.c"

#define IMAGE_HEADER 80

/* A flow's packets, of which the first `depth` that are there are looked at. */
struct flow_view {
	const struct packet_fields *packets;
	__u64 taken;		/* bits by rank */
	__u64 start_ns;		/* of the first one taken */
	__u32 ranks;
};

static inline __device__ struct flow_view view_of(const struct view_input *input, __u32 flow)
{
	const __u32 first_n = input->first_n;
	struct flow_view view = {};
	__u32 left = input->depth;

	view.packets = (const struct packet_fields *)input->packets + (__u64)flow * first_n;
	view.ranks = first_n;
	for (__u32 rank = 0; rank < first_n && left; rank++) {
		if (!view.packets[rank].present)
			continue;
		view.taken |= 1ull << rank;
		left--;
	}
	if (first_n)
		view.start_ns = view.packets[view.taken ? __ffsll(view.taken) - 1 : 0].timestamp_ns;
	return view;
}

static inline __device__ bool is_taken(const struct flow_view *view, __u32 rank)
{
	return rank < view->ranks && view->taken >> rank & 1;
}

static inline __device__ double time_at(const struct flow_view *view, __u32 rank)
{
	return (double)(long long)(view->packets[rank].timestamp_ns - view->start_ns);
}

static inline __device__ const __u8 *raw_of(const struct view_input *input, __u32 flow, __u32 rank)
{
	return (const __u8 *)input->raw + ((__u64)flow * input->first_n + rank) * input->raw_len;
}

static inline __device__ float gap_number(double gap_us)
{
	return (float)(log1p(gap_us) / 16);
}

/* A thread a flow: the columns that the plan names, of stats or features. */
KERNEL(64) view_columns(const struct view_input *input, const struct view_output *output)
{
	const struct feature_plan *plan = (const struct feature_plan *)output->plan;
	struct feature_flows flows = {};
	struct flow flow = {};

	flows.key = input->key;
	flows.initiator = input->initiator;
	flows.packets = input->packets;
	flows.rows = output->rows;
	flows.first_n = input->first_n;
	for (__u32 i = grid_thread(); i < input->flows; i += grid_threads())
		features_of_flow(&flow, plan, &flows, i);
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
			bool taken = is_taken(&view, rank);
			double now = taken ? time_at(&view, rank) : 0;

			row[0] = taken ? (float)(view.packets[rank].ip_len / 1500.0) : 0;
			row[1] = taken ? (float)(1 - 2.0 * view.packets[rank].direction) : 0;
			row[2] = taken && seen ? gap_number(not_negative(now - previous) / 1e3) : 0;
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
		struct flow_view view = view_of(input, flow);

		if (is_taken(&view, rank))
			warp_copy(to, raw_of(input, flow, rank), output->columns);
		else
			warp_fill(to, 0, output->columns);
	}
}

/* A warp a packet: its headers, from byte IMAGE_HEADER on its payload, zeros where they end. */
KERNEL(256) view_image(const struct view_input *input, const struct view_output *output)
{
	const __u64 cells = (__u64)input->flows * output->ranks;

	for (__u64 cell = grid_warp(); cell < cells; cell += grid_warps()) {
		__u32 flow = cell / output->ranks, rank = cell % output->ranks;
		__u8 *to = (__u8 *)output->rows + cell * output->columns;
		const __u8 *raw = raw_of(input, flow, rank);
		struct flow_view view = view_of(input, flow);
		__u32 headers = 0, kept = 0;

		if (is_taken(&view, rank)) {
			headers = view.packets[rank].ip_len - view.packets[rank].payload_len;
			kept = min_u32(view.packets[rank].raw_len, output->raw_len);
		}
		for (__u32 i = lane_id(); i < output->columns; i += WARP) {
			__u32 end = i < IMAGE_HEADER ? min_u32(headers, kept) : kept;
			__u32 from = i < IMAGE_HEADER ? i : headers + i - IMAGE_HEADER;

			to[i] = from < end ? raw[from] : 0;
		}
	}
}

static inline __device__ struct kept_flows kept_of(const struct view_input *input)
{
	const struct kept_flows flows = {
		(const struct flow_key *)input->key,
		(const struct packet_fields *)input->packets,
		(const __u8 *)input->raw,
		input->first_n,
		input->raw_len,
		input->depth,
	};

	return flows;
}

/* A warp a flow: the fields of its packets in fixed places. */
KERNEL(256) view_tok(const struct view_input *input, const struct view_output *output)
{
	const struct kept_flows flows = kept_of(input);

	for (__u64 flow = grid_warp(); flow < input->flows; flow += grid_warps()) {
		float *gap = (float *)output->rows + flow * TOK_PACKETS * TOK_ROW + TOK_GAP;
		double gaps_us[TOK_PACKETS];

		tokens_of_flow(&flows, flow, (float *)output->rows, gaps_us);
		if (lane_id() < TOK_PACKETS)
			gap[lane_id() * TOK_ROW] = gap_number(gaps_us[lane_id()]);
	}
}

/* A warp a flow: the bits of its packets' headers. */
KERNEL(256) view_bits(const struct view_input *input, const struct view_output *output)
{
	const struct kept_flows flows = kept_of(input);

	for (__u64 flow = grid_warp(); flow < input->flows; flow += grid_warps())
		bits_of_flow(&flows, flow, (int8_t *)output->rows);
}
