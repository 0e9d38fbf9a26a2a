/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which flows fragmented datagrams belong to: a cache of FRAGMENTS_MAX places, one for each
 * hash, where a newer datagram takes an older one's place. As the kernel's LRU map, bounded.
 */
#ifndef ETCPIPE_FRAGMENT_TABLE_H
#define ETCPIPE_FRAGMENT_TABLE_H

#include "fragments.h"
#include "siphash.h"

struct fragment_entry {
	struct fragment_key key;
	struct fragment_flow flow;
};

struct fragment_table {
	struct fragment_entry *entries;	/* NULL until the first fragment */
};

/* Note a first fragment's flow. Without memory nothing is remembered. */
void fragment_table_put(struct fragment_table *table, const struct siphash_key *hash_key,
			const struct packet *p, uint64_t now);

/* The flow of a later fragment, or NULL. */
const struct fragment_flow *fragment_table_find(const struct fragment_table *table,
						const struct siphash_key *hash_key,
						const struct packet *p, uint64_t now);

#endif /* ETCPIPE_FRAGMENT_TABLE_H */
