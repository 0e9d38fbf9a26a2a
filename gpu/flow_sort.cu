// SPDX-License-Identifier: Apache-2.0
/*
 * Flows of packets that have no id: gpu/flow_sort.py is the contract, gpu/flow_sort_cpu.py the
 * definition. One block sorts a batch by the hash of its keys and by arrival, finds the heads
 * of its flows by comparing whole keys, and looks each up in the table. The first thread of a
 * flow then takes the flow's packets by the rules of bpf/flows.h, while others have theirs; a
 * scan over the arrivals at which flows began gives the new ones their ids.
 */
#include "flows.h"
#include "packets.cuh"

#ifndef HASH_BITS
#define HASH_BITS 53		/* fewer in tests, so that keys collide */
#endif
#define PLACE_NONE 0xffffffffu
#define ORIGIN_NONE 0xffff	/* the flow began in an earlier batch */

/* What the rules need of a packet. */
struct arrival {
	__u64 now_ns;
	__u32 wire_len;
	__u32 segments;
	__u8 tcp_flags;
	__u8 from_b;
	__u8 protocol;
	__u8 has_payload;
};

/* What all threads share, by arrival but for the first two. */
struct sorting {
	__u64 sorted[BATCH_MAX];
	__u16 leader[BATCH_MAX];	/* where in @sorted the flow's first packet is */
	struct arrival arrivals[BATCH_MAX];
	__u16 origin[BATCH_MAX];	/* the packet that began the flow */
	__u32 begun[BATCH_MAX];		/* flows that began up to this packet */
	__u32 sums[WARPS];
};

static inline __device__ __u64 key_hash(const struct flow_key *key, __u64 seed)
{
	const __u32 *words = (const __u32 *)key;
	__u64 hash = seed;

	for (__u32 i = 0; i < sizeof(*key) / sizeof(*words); i++) {
		hash = (hash ^ words[i]) * 0x9e3779b97f4a7c15ull;	/* 2^64 / golden ratio */
		hash ^= hash >> 32;
	}
	return hash >> (64 - HASH_BITS);
}

static inline __device__ bool same_key(const struct flow_key *a, const struct flow_key *b)
{
	const __u32 *x = (const __u32 *)a, *y = (const __u32 *)b;
	__u32 different = 0;

	for (__u32 i = 0; i < sizeof(*a) / sizeof(*x); i++)
		different |= x[i] ^ y[i];
	return !different;
}

static inline __device__ const struct flow_key *key_at(const struct regroup_batch *batch,
						       __u64 sorted)
{
	return &parsed_of(batch, sorted % BATCH_MAX)->packet.key;
}

/* Return the place of a key's flow, or PLACE_NONE. */
static inline __device__ __u32 find_flow(const struct flow_sort_table *table,
					 const struct flow_key *key, __u64 hash)
{
	const struct sorted_flow *flows = (const struct sorted_flow *)table->flows;

	for (__u32 at = hash & table->mask; column<__u32>(table->used, at);
	     at = (at + 1) & table->mask)
		if (same_key(&flows[at].key, key))
			return at;
	return PLACE_NONE;
}

/* Take a place for a key. No two threads have the same key, so none is compared. */
static inline __device__ __u32 claim_place(__u64 used, __u32 mask, __u64 hash)
{
	__u32 at = hash & mask;

	while (atomicCAS((__u32 *)used + at, 0u, 1u))
		at = (at + 1) & mask;
	return at;
}

static inline __device__ struct flow_timeouts timeouts_of(const struct flow_sort_table *table)
{
	return { table->establish_ns, table->idle_ns, table->tombstone_ns };
}

static inline __device__ struct arrival arrival_of(const struct regroup_batch *batch, __u32 i)
{
	const struct parsed *parsed = parsed_of(batch, i);
	struct arrival arrival = {};

	arrival.now_ns = column<__u64>(batch->timestamp_ns, i);
	arrival.wire_len = column<__u32>(batch->wire_len, i);
	arrival.segments = parsed->segments;
	arrival.tcp_flags = parsed->packet.tcp_flags;
	arrival.from_b = parsed->packet.from_b;
	arrival.protocol = parsed->packet.key.protocol;
	arrival.has_payload = parsed->packet.payload_len != 0;
	return arrival;
}

/*
 * Find the first packet of the flow at position @t. A hash that several keys have is resolved
 * by comparing the packet with all before it that have the hash: exact, and never needed but
 * in a test.
 */
static inline __device__ __u32 find_leader(const struct regroup_batch *batch,
					   struct sorting *shared, __u64 mine, bool valid)
{
	const __u32 t = threadIdx.x;
	bool begins_run = valid && (!t || shared->sorted[t - 1] / BATCH_MAX != mine / BATCH_MAX);
	__u32 leader = block_scan<larger>(begins_run ? t : 0, shared->sums);
	bool differs = valid && !same_key(key_at(batch, mine), key_at(batch, shared->sorted[leader]));

	while (differs && leader < t) {
		leader++;
		differs = !same_key(key_at(batch, mine), key_at(batch, shared->sorted[leader]));
	}
	return leader;
}

/* Where a new flow goes, PLACE_NONE if there is no room for it. They come in order of arrival. */
static inline __device__ __u32 place_flow(const struct flow_sort_table *table,
					  struct sorting *shared, bool is_new, __u64 mine)
{
	struct flow_sort_state *state = (struct flow_sort_state *)table->state;
	const __u32 there = state->n_flows, t = threadIdx.x, i = mine % BATCH_MAX;
	__u32 number;

	shared->begun[t] = 0;
	__syncthreads();
	if (is_new)
		shared->begun[i] = 1;
	__syncthreads();
	number = block_scan<plus>(shared->begun[t], shared->sums);
	shared->begun[t] = number;
	if (t == BATCH_MAX - 1)
		state->n_flows = there + number < table->flows_max ? there + number :
								     table->flows_max;
	__syncthreads();
	if (!is_new || there + shared->begun[i] > table->flows_max)
		return PLACE_NONE;
	return claim_place(table->used, table->mask, mine / BATCH_MAX);
}

/* What the head of a flow counts; added up at the end. */
struct tally {
	__u32 created;
	__u32 restarted;
	__u32 refused;
};

/* Write what packet @i is of its flow; the id is that of before if the flow did not begin now. */
static inline __device__ void write_packet(const struct flow_sort_table *table,
					   const struct regroup_batch *batch, __u32 i, __u64 flow_id,
					   __u32 rank, __u8 direction)
{
	bool wanted = rank < table->first_n;

	((__u64 *)batch->flow_id)[i] = wanted ? flow_id : FLOW_SKIP;
	((__u16 *)batch->rank)[i] = wanted ? rank : 0;
	((__u8 *)batch->direction)[i] = direction;
}

/*
 * The packets of the flow whose first one is at position @t, in their order; without a place
 * they are refused. Returns the packet that began the flow as it is now, or ORIGIN_NONE.
 */
static inline __device__ __u32 take_flow(const struct flow_sort_table *table,
					 const struct regroup_batch *batch, struct sorting *shared,
					 __u32 place, bool is_new, struct tally *tally)
{
	const struct flow_timeouts timeouts = timeouts_of(table);
	const __u32 t = threadIdx.x;
	const __u64 hash = shared->sorted[t] / BATCH_MAX;
	struct sorted_flow *flow = (struct sorted_flow *)table->flows + place;
	struct flow_state state = {};
	__u32 origin = ORIGIN_NONE;

	if (place != PLACE_NONE && !is_new)
		state = flow->state;
	for (__u32 at = t; at < BATCH_MAX && shared->sorted[at] / BATCH_MAX == hash; at++) {
		__u32 i = shared->sorted[at] % BATCH_MAX, rank;
		const struct arrival *arrival = &shared->arrivals[i];
		struct packet packet = {};

		if (shared->leader[at] != t)
			continue;
		if (place == PLACE_NONE) {
			write_packet(table, batch, i, 0, RANK_NONE, 0);
			tally->refused++;
			continue;
		}
		packet.key.protocol = arrival->protocol;
		packet.tcp_flags = arrival->tcp_flags;
		packet.from_b = arrival->from_b;
		packet.payload_len = arrival->has_payload;
		if ((is_new && origin == ORIGIN_NONE) ||
		    flow_restarts(&state, &packet, arrival->now_ns, &timeouts)) {
			if (is_new && origin == ORIGIN_NONE)
				tally->created++;
			else
				tally->restarted++;
			origin = i;
			shared->begun[i] = 1;
			flow_begin(&state, &packet, 0, arrival->now_ns);
		}
		shared->origin[i] = origin;
		rank = flow_update(&state, &packet, arrival->wire_len, arrival->segments,
				   arrival->now_ns, table->count_rule);
		write_packet(table, batch, i, state.flow_id, rank,
			     flow_direction(&state, &packet));
	}
	if (place != PLACE_NONE) {
		flow->key = *key_at(batch, shared->sorted[t]);
		flow->state = state;
	}
	return origin;
}

/* Give the flows that began their ids, in order of arrival. */
static inline __device__ void number_flows(const struct flow_sort_table *table,
					   const struct regroup_batch *batch,
					   struct sorting *shared, __u32 place, __u32 origin)
{
	struct flow_sort_state *state = (struct flow_sort_state *)table->state;
	const __u64 last_id = state->last_id;
	const __u32 t = threadIdx.x;
	__u64 *flow_id = (__u64 *)batch->flow_id;
	__u32 number = block_scan<plus>(shared->begun[t], shared->sums);

	shared->begun[t] = number;
	__syncthreads();
	if (shared->origin[t] != ORIGIN_NONE && flow_id[t] != FLOW_SKIP)
		flow_id[t] = last_id + shared->begun[shared->origin[t]];
	if (place != PLACE_NONE && origin != ORIGIN_NONE)
		((struct sorted_flow *)table->flows)[place].state.flow_id =
			last_id + shared->begun[origin];
	if (t == BATCH_MAX - 1)
		state->last_id = last_id + number;
}

KERNEL(BATCH_MAX) flow_sort(const struct flow_sort_table *table, const struct regroup_batch *batch)
{
	__shared__ struct sorting shared;
	struct flow_sort_state *state = (struct flow_sort_state *)table->state;
	const __u32 t = threadIdx.x;
	__u32 place = PLACE_NONE, origin = ORIGIN_NONE, leader;
	struct tally tally = {};
	bool valid = t < batch->packets && parsed_of(batch, t)->segments, is_head, is_new;
	__u64 mine = ~0ull;

	if (valid) {
		shared.arrivals[t] = arrival_of(batch, t);
		mine = key_hash(&parsed_of(batch, t)->packet.key, table->seed) * BATCH_MAX + t;
	} else if (t < batch->packets) {
		((__u64 *)batch->flow_id)[t] = 0;
	}
	shared.origin[t] = ORIGIN_NONE;
	mine = block_sort(mine, shared.sorted);
	shared.sorted[t] = mine;
	__syncthreads();
	valid = mine != ~0ull;
	leader = find_leader(batch, &shared, mine, valid);
	shared.leader[t] = leader;
	is_head = valid && leader == t;
	if (is_head)
		place = find_flow(table, key_at(batch, mine), mine / BATCH_MAX);
	is_new = is_head && place == PLACE_NONE;
	/* its barriers part all look-ups from all insertions */
	if (__u32 found = place_flow(table, &shared, is_new, mine); is_new)
		place = found;
	__syncthreads();
	shared.begun[t] = 0;
	__syncthreads();
	if (is_head)
		origin = take_flow(table, batch, &shared, place, is_new, &tally);
	__syncthreads();
	number_flows(table, batch, &shared, place, origin);
	if (is_head) {
		atomicAdd(&state->counters[SORT_CREATED], (__u64)tally.created);
		atomicAdd(&state->counters[SORT_RESTARTED], (__u64)tally.restarted);
		atomicAdd(&state->counters[SORT_TABLE_FULL], (__u64)tally.refused);
	}
}

/* Build the table anew without the flows that are silent, and leave the old one empty. */
KERNEL(256) flow_sort_sweep(const struct flow_sort_table *table, const struct flow_sweep *sweep)
{
	const struct flow_timeouts timeouts = timeouts_of(table);
	struct flow_sort_state *state = (struct flow_sort_state *)table->state;
	const struct sorted_flow *old = (const struct sorted_flow *)table->flows;

	for (__u32 at = grid_thread(); at <= table->mask; at += grid_threads()) {
		__u32 *used = (__u32 *)table->used + at, place;

		if (!*used)
			continue;
		*used = 0;
		if (flow_is_silent(&old[at].state, sweep->now_ns, &timeouts)) {
			atomicSub(&state->n_flows, 1u);
			continue;
		}
		place = claim_place(sweep->used, table->mask, key_hash(&old[at].key, table->seed));
		((struct sorted_flow *)sweep->flows)[place] = old[at];
	}
}
