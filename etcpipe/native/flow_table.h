/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Flows by key: an open-addressing index of 8 bytes a slot over entries of 120 bytes
 * in chunks that never move. About 140 bytes a flow.
 */
#ifndef ETCPIPE_FLOW_TABLE_H
#define ETCPIPE_FLOW_TABLE_H

#include "etcpipe.h"
#include "siphash.h"

#define ENTRY_NONE 0xffffffffu

struct flow_entry {
	struct flow_key key;
	struct flow_state state;	/* flow_id 0: the entry is free */
	uint32_t tag;			/* hash of the key */
	uint32_t next_free;		/* of a free entry, or ENTRY_NONE */
};

struct flow_slot {
	uint32_t tag;
	uint32_t entry;			/* ENTRY_NONE: empty */
};

struct flow_table {
	struct siphash_key hash_key;
	struct flow_slot *slots;
	struct flow_entry **chunks;
	uint32_t slot_mask;
	uint32_t n_chunks;
	uint32_t n_entries;		/* in use or free; later ones were never used */
	uint32_t n_flows;
	uint32_t first_free;
};

/* 0, or -1 if there is no memory. The hash is keyed at random. */
int flow_table_init(struct flow_table *table);
void flow_table_destroy(struct flow_table *table);

uint32_t flow_table_tag(const struct flow_table *table, const struct flow_key *key);

/* The entry of @key, or NULL. */
struct flow_entry *flow_table_find(const struct flow_table *table, const struct flow_key *key,
				   uint32_t tag);

/* A new entry for @key, which must not be in the table; its state is the caller's to set. NULL: no memory. */
struct flow_entry *flow_table_insert(struct flow_table *table, const struct flow_key *key,
				     uint32_t tag);
void flow_table_remove(struct flow_table *table, uint32_t entry);

/* Entry number @entry of 0 .. n_entries - 1, free ones too. */
struct flow_entry *flow_table_entry(const struct flow_table *table, uint32_t entry);

#endif /* ETCPIPE_FLOW_TABLE_H */
