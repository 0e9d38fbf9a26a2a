// SPDX-License-Identifier: Apache-2.0
#include "flow_table.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define CHUNK_BITS 12
#define CHUNK_ENTRIES (1u << CHUNK_BITS)
#define SLOTS_AT_START 1024
#define KEY_WORDS (sizeof(struct flow_key) / sizeof(uint64_t))

_Static_assert(sizeof(struct flow_key) % sizeof(uint64_t) == 0, "a key is whole words");
_Static_assert(sizeof(struct flow_entry) == 120, "flow_entry is 120 bytes");

/* Linear probing stays short up to three quarters. */
static int is_crowded(uint32_t n_flows, uint32_t n_slots)
{
	return n_flows >= n_slots - n_slots / 4;
}

static struct flow_slot *new_slots(uint32_t n)
{
	struct flow_slot *slots = malloc(n * sizeof(*slots));

	if (slots)
		memset(slots, 0xff, n * sizeof(*slots));	/* ENTRY_NONE */
	return slots;
}

int flow_table_init(struct flow_table *table)
{
	memset(table, 0, sizeof(*table));
	table->first_free = ENTRY_NONE;
	table->slot_mask = SLOTS_AT_START - 1;
	table->slots = new_slots(SLOTS_AT_START);
	if (!table->slots)
		return -1;
	if (getrandom(&table->hash_key, sizeof(table->hash_key), 0) !=
	    (ssize_t)sizeof(table->hash_key))
		return -1;
	return 0;
}

void flow_table_destroy(struct flow_table *table)
{
	uint32_t i;

	for (i = 0; i < table->n_chunks; i++)
		free(table->chunks[i]);
	free(table->chunks);
	free(table->slots);
}

uint32_t flow_table_tag(const struct flow_table *table, const struct flow_key *key)
{
	uint64_t words[KEY_WORDS];

	memcpy(words, key, sizeof(words));
	return siphash_words(&table->hash_key, words, KEY_WORDS);
}

struct flow_entry *flow_table_entry(const struct flow_table *table, uint32_t entry)
{
	return &table->chunks[entry >> CHUNK_BITS][entry & (CHUNK_ENTRIES - 1)];
}

struct flow_entry *flow_table_find(const struct flow_table *table, const struct flow_key *key,
				   uint32_t tag)
{
	uint32_t i = tag & table->slot_mask;

	for (; table->slots[i].entry != ENTRY_NONE; i = (i + 1) & table->slot_mask) {
		struct flow_entry *entry;

		if (table->slots[i].tag != tag)
			continue;
		entry = flow_table_entry(table, table->slots[i].entry);
		if (!memcmp(&entry->key, key, sizeof(*key)))
			return entry;
	}
	return NULL;
}

static void put_slot(struct flow_slot *slots, uint32_t mask, struct flow_slot slot)
{
	uint32_t i = slot.tag & mask;

	while (slots[i].entry != ENTRY_NONE)
		i = (i + 1) & mask;
	slots[i] = slot;
}

static int grow_slots(struct flow_table *table)
{
	uint32_t n = 2 * (table->slot_mask + 1);
	struct flow_slot *slots = new_slots(n);
	uint32_t i;

	if (!slots)
		return -1;
	for (i = 0; i <= table->slot_mask; i++)
		if (table->slots[i].entry != ENTRY_NONE)
			put_slot(slots, n - 1, table->slots[i]);
	free(table->slots);
	table->slots = slots;
	table->slot_mask = n - 1;
	return 0;
}

static int grow_entries(struct flow_table *table)
{
	size_t n = table->n_chunks + 1;
	struct flow_entry **chunks = realloc(table->chunks, n * sizeof(*chunks));

	if (!chunks)
		return -1;
	table->chunks = chunks;
	chunks[n - 1] = malloc(CHUNK_ENTRIES * sizeof(**chunks));
	if (!chunks[n - 1])
		return -1;
	table->n_chunks = n;
	return 0;
}

static uint32_t take_entry(struct flow_table *table)
{
	uint32_t entry = table->first_free;

	if (entry != ENTRY_NONE) {
		table->first_free = flow_table_entry(table, entry)->next_free;
		return entry;
	}
	if (table->n_entries == table->n_chunks * CHUNK_ENTRIES && grow_entries(table))
		return ENTRY_NONE;
	return table->n_entries++;
}

struct flow_entry *flow_table_insert(struct flow_table *table, const struct flow_key *key,
				     uint32_t tag)
{
	struct flow_slot slot = { .tag = tag };
	struct flow_entry *entry;

	if (is_crowded(table->n_flows, table->slot_mask + 1) && grow_slots(table))
		return NULL;
	slot.entry = take_entry(table);
	if (slot.entry == ENTRY_NONE)
		return NULL;
	put_slot(table->slots, table->slot_mask, slot);
	table->n_flows++;
	entry = flow_table_entry(table, slot.entry);
	entry->key = *key;
	entry->tag = tag;
	return entry;
}

/* Empty slot @hole and move later slots of its run back, so that no probe meets a gap. */
static void close_hole(struct flow_table *table, uint32_t hole)
{
	struct flow_slot *slots = table->slots;
	uint32_t mask = table->slot_mask;
	uint32_t i;

	for (i = (hole + 1) & mask; slots[i].entry != ENTRY_NONE; i = (i + 1) & mask) {
		uint32_t from_home = (i - slots[i].tag) & mask;

		if (from_home < ((i - hole) & mask))
			continue;
		slots[hole] = slots[i];
		hole = i;
	}
	slots[hole].entry = ENTRY_NONE;
}

void flow_table_remove(struct flow_table *table, uint32_t number)
{
	struct flow_entry *entry = flow_table_entry(table, number);
	uint32_t i = entry->tag & table->slot_mask;

	while (table->slots[i].entry != number)
		i = (i + 1) & table->slot_mask;
	close_hole(table, i);
	entry->state.flow_id = 0;
	entry->next_free = table->first_free;
	table->first_free = number;
	table->n_flows--;
}
