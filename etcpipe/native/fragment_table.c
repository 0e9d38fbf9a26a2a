// SPDX-License-Identifier: Apache-2.0
#include "fragment_table.h"

#include <stdlib.h>
#include <string.h>

#define KEY_WORDS (sizeof(struct fragment_key) / sizeof(uint64_t))

_Static_assert(sizeof(struct fragment_key) % sizeof(uint64_t) == 0, "a key is whole words");
_Static_assert((FRAGMENTS_MAX & (FRAGMENTS_MAX - 1)) == 0, "places are chosen by a mask");

static uint32_t place_of(const struct siphash_key *hash_key, const struct fragment_key *key)
{
	uint64_t words[KEY_WORDS];

	memcpy(words, key, sizeof(words));
	return siphash_words(hash_key, words, KEY_WORDS) & (FRAGMENTS_MAX - 1);
}

void fragment_table_put(struct fragment_table *table, const struct siphash_key *hash_key,
			const struct packet *p, uint64_t now)
{
	if (!table->entries)
		table->entries = calloc(FRAGMENTS_MAX, sizeof(*table->entries));
	if (!table->entries)
		return;
	table->entries[place_of(hash_key, &p->fragment_key)] = (struct fragment_entry){
		.key = p->fragment_key,
		.flow = { .key = p->key, .seen_ns = now, .from_b = p->from_b },
	};
}

const struct fragment_flow *fragment_table_find(const struct fragment_table *table,
						const struct siphash_key *hash_key,
						const struct packet *p, uint64_t now)
{
	const struct fragment_entry *entry;

	if (!table->entries)
		return NULL;
	entry = &table->entries[place_of(hash_key, &p->fragment_key)];
	if (memcmp(&entry->key, &p->fragment_key, sizeof(entry->key)) ||
	    (int64_t)(now - entry->flow.seen_ns) > (int64_t)FRAGMENT_NS)
		return NULL;
	return &entry->flow;
}
