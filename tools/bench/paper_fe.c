// SPDX-License-Identifier: Apache-2.0
/*
 * The paper's feature extraction on a CPU core, restated from its published code (CPU_FE): one
 * packet at a time, a hash table by IPv4 four-tuple, the first packets of a flow copied byte by
 * byte into doubles, the limits tested at every byte. Without what was wrong in it: bounds are
 * checked, each core has its own table. Without its cudaMalloc and cudaMemcpy a flow.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define IP_AT 14
#define PORTS_AT 34
#define PROTOCOL_AT 23
#define TCP 6

struct tuple {
	uint8_t addresses[8];
	uint8_t ports[4];
};

struct flow {
	struct tuple key;
	uint32_t packets;
};

struct extraction {
	struct flow *flows;
	uint32_t *buckets;	/* number of a flow + 1 */
	double *features;	/* [flows][first_n][raw_len], or [flows][first_n] of sizes */
	uint32_t n_flows;
	uint32_t flows_max;
	uint32_t mask;
	uint32_t first_n;
	uint32_t raw_len;	/* 0: sizes only */
};

void fe_free(struct extraction *e)
{
	free(e->flows);
	free(e->buckets);
	free(e->features);
	free(e);
}

struct extraction *fe_new(uint32_t flows_max, uint32_t first_n, uint32_t raw_len)
{
	struct extraction *e = calloc(1, sizeof(*e));
	size_t features = (size_t)flows_max * first_n * (raw_len ? raw_len : 1);
	uint32_t buckets = 1024;

	if (!e)
		return NULL;
	while (buckets < 2 * flows_max)
		buckets *= 2;
	*e = (struct extraction){
		.flows = calloc(flows_max, sizeof(*e->flows)),
		.buckets = calloc(buckets, sizeof(*e->buckets)),
		.features = calloc(features, sizeof(*e->features)),
		.flows_max = flows_max,
		.mask = buckets - 1,
		.first_n = first_n,
		.raw_len = raw_len,
	};
	if (!e->flows || !e->buckets || !e->features) {
		fe_free(e);
		return NULL;
	}
	return e;
}

/* Forget all flows. Features stay, as in the original. */
void fe_reset(struct extraction *e)
{
	memset(e->buckets, 0, (e->mask + 1) * sizeof(*e->buckets));
	e->n_flows = 0;
}

static uint32_t hash(const struct tuple *key)
{
	uint64_t a;
	uint32_t b;

	memcpy(&a, key->addresses, sizeof(a));
	memcpy(&b, key->ports, sizeof(b));
	a = (a ^ b * 0x9e3779b97f4a7c15ull) * 0xbf58476d1ce4e5b9ull;
	return a >> 32;
}

static uint32_t find(struct extraction *e, const struct tuple *key)
{
	uint32_t at = hash(key) & e->mask;

	while (e->buckets[at]) {
		uint32_t flow = e->buckets[at] - 1;

		if (!memcmp(&e->flows[flow].key, key, sizeof(*key)))
			return flow;
		at = (at + 1) & e->mask;
	}
	if (e->n_flows == e->flows_max)
		return e->flows_max;
	e->flows[e->n_flows] = (struct flow){ .key = *key };
	e->buckets[at] = e->n_flows + 1;
	return e->n_flows++;
}

/* Take packets; returns how many flows have their first_n. */
uint32_t fe_run(struct extraction *e, const uint8_t *memory, const uint64_t *offset,
		const uint32_t *captured, uint32_t packets)
{
	uint32_t i, z, complete = 0;

	for (i = 0; i < packets; i++) {
		const uint8_t *frame = memory + offset[i];
		uint32_t number;
		struct tuple key;
		struct flow *flow;

		if (captured[i] < PORTS_AT + 4 || frame[PROTOCOL_AT] != TCP)
			continue;
		memcpy(key.addresses, frame + IP_AT + 12, sizeof(key.addresses));
		memcpy(key.ports, frame + PORTS_AT, sizeof(key.ports));
		number = find(e, &key);
		if (number == e->flows_max)
			continue;
		flow = &e->flows[number];
		if (flow->packets >= e->first_n)
			continue;
		if (!e->raw_len) {
			e->features[(size_t)number * e->first_n + flow->packets] = captured[i];
		} else {
			size_t row = (size_t)number * e->first_n + flow->packets;

			for (z = 0; z < e->raw_len; z++)
				if (flow->packets < e->first_n && z < captured[i] - IP_AT)
					e->features[row * e->raw_len + z] = frame[IP_AT + z];
		}
		complete += ++flow->packets == e->first_n;
	}
	return complete;
}

/* The features of a flow, for the check that they are right. */
const double *fe_features(const struct extraction *e)
{
	return e->features;
}
