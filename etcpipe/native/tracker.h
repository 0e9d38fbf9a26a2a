/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The flow table for captures. The rules are those of bpf/flows.h, as in the kernel;
 * this adds what the kernel's map does there: lookup, room, and the end of flows.
 */
#ifndef ETCPIPE_TRACKER_H
#define ETCPIPE_TRACKER_H

#include <stddef.h>
#include <stdint.h>

#include "flows.h"

#define TRACKER_FLOWS_LIMIT (1u << 28)	/* the most flows a table can be asked to hold */

struct tracker_settings {
	uint32_t first_n;	/* ranks below it count as PACKETS_FIRST_N */
	uint32_t count_rule;	/* enum count_rule */
	struct flow_timeouts timeouts;
	uint32_t flows_max;	/* at most TRACKER_FLOWS_LIMIT */
	uint32_t sample_every;	/* one flow of so many is tracked, 1: all */
	uint32_t sample_seed;
	uint32_t parse;		/* PARSE_ bits */
};

/* What the tracker says of one packet. */
struct tracked {
	uint64_t flow_id;
	uint32_t rank;		/* RANK_NONE if it does not count */
	uint8_t direction;
};

struct tracker;

/* NULL if there is no memory. */
struct tracker *tracker_new(const struct tracker_settings *settings);
void tracker_free(struct tracker *t);

/* The PARSE_ bits that packets must be parsed with. */
uint32_t tracker_parse(const struct tracker *t);

/* Count a packet that no flow takes, by enum packet_counter. */
void tracker_refuse(struct tracker *t, uint32_t reason);

/* Give a later fragment the key of its first one. Returns -1 if nobody knows it. */
int tracker_join(const struct tracker *t, struct packet *p, uint64_t now);

/*
 * Account a packet to its flow, beginning one if need be. Returns 0, or -1 if the flow is
 * not of the sample or there is no room for it (counted).
 */
int tracker_add(struct tracker *t, const struct packet *p, uint32_t wire_len, uint64_t now,
		struct tracked *tracked);

/* The state of a flow of the table, or NULL. */
const struct flow_state *tracker_find(const struct tracker *t, const struct flow_key *key);

/* Flows that ended and were not taken yet; take up to @n of them in the order they ended. */
size_t tracker_ended(const struct tracker *t);
size_t tracker_take(struct tracker *t, struct flow_record *records, size_t n);

/* The same, and when they are all taken, flows of the table, which end with the source. */
size_t tracker_finish(struct tracker *t, struct flow_record *records, size_t n);

const uint64_t *tracker_counters(const struct tracker *t);
uint64_t tracker_flows(const struct tracker *t);
uint64_t tracker_clock_ns(const struct tracker *t);

#endif /* ETCPIPE_TRACKER_H */
