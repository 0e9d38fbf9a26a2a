// SPDX-License-Identifier: Apache-2.0
/*
 * Rows of features: those of the kernel's table that no packet will close any more, and
 * bpf/feature_words.h on this machine, which gathers of rows of packets what the kernel would.
 */
#include "native.h"

#include <string.h>

#include "tree.h"

/* Fill an entry with the first packets of a row that are present, as if they came one by one. */
static void fold(struct feature_entry *entry, const struct feature_plan *plan,
		 const struct packet_fields *packets, uint32_t n, const struct flow_key *key,
		 uint64_t flow_id)
{
	uint32_t i, rank = 0;

	memset(entry, 0, plan->bytes);
	entry->key = *key;
	for (i = 0; i < n && rank < plan->depth; i++) {
		const struct packet_fields *p = &packets[i];
		const struct feature_sample s = {
			.now = p->timestamp_ns,
			.ip_len = p->ip_len,
			.payload_len = p->payload_len,
			.rank = rank,
			.window = p->tcp_window,
			.ttl = p->ttl,
			.flags = p->tcp_flags,
			.side = p->direction,
			.is_tcp = key->protocol == IPPROTO_TCP,
		};

		if (!p->present)
			continue;
		if (!rank++)
			features_begin(entry, plan, flow_id, s.now);
		features_add(entry, plan, &s);
	}
	features_close(entry, plan, rank < plan->depth ? READY_END : READY_DEPTH);
}

static PyObject *gather(PyObject *self, PyObject *args)
{
	unsigned long long plan, packets, keys, flow_ids, entries;
	const struct feature_plan *p;
	unsigned int flows, n, i;

	(void)self;
	if (!PyArg_ParseTuple(args, "KKKKIIK", &plan, &packets, &keys, &flow_ids, &flows, &n,
			      &entries))
		return NULL;
	p = (const struct feature_plan *)(uintptr_t)plan;
	for (i = 0; i < flows; i++)
		fold((struct feature_entry *)((uint8_t *)(uintptr_t)entries + (size_t)i * p->bytes),
		     p, (const struct packet_fields *)(uintptr_t)packets + (size_t)i * n, n,
		     (const struct flow_key *)(uintptr_t)keys + i,
		     ((const uint64_t *)(uintptr_t)flow_ids)[i]);
	Py_RETURN_NONE;
}

/* Judge entries as the kernel does, and note in `sure` which it is sure of. */
static PyObject *judge(PyObject *self, PyObject *args)
{
	unsigned long long plan, tree, entries, sure;
	const struct feature_plan *p;
	struct tree_work work;
	unsigned int n, i;

	(void)self;
	if (!PyArg_ParseTuple(args, "KKKIK", &plan, &tree, &entries, &n, &sure))
		return NULL;
	p = (const struct feature_plan *)(uintptr_t)plan;
	for (i = 0; i < n; i++)
		((uint8_t *)(uintptr_t)sure)[i] = tree_judge(
			(struct feature_entry *)((uint8_t *)(uintptr_t)entries +
						 (size_t)i * p->bytes),
			p, (const struct tree *)(uintptr_t)tree, &work);
	Py_RETURN_NONE;
}

/* The part of the kernel's table that is looked at, and what was taken from it before. */
struct scan {
	uint8_t *table;
	const struct feature_plan *plan;
	uint64_t *taken;	/* by row, the flow that was told last */
	uint64_t now;
	uint64_t grace_ns;	/* so much longer than the waiting time, for packets on their way */
	int all;		/* every open row, as the source ends */
};

/*
 * Copy a row that is to be told. The kernel may begin a newer flow's there meanwhile, after it
 * told this one itself. A packet that comes to a silent flow changes nothing that is copied.
 */
static int scan_entry(const struct scan *scan, uint32_t slot, struct feature_entry *out)
{
	struct feature_entry *entry =
		(struct feature_entry *)(scan->table + (size_t)slot * scan->plan->bytes);
	uint64_t flow_id = __atomic_load_n(&entry->flow_id, __ATOMIC_ACQUIRE);
	int idle;

	if (!flow_id || flow_id == scan->taken[slot] || entry->status == FEATURES_TOLD)
		return 0;
	idle = features_are_idle(entry, scan->now,
				 scan->plan->wait_ns + (scan->all ? 0 : scan->grace_ns));
	if (entry->status == FEATURES_OPEN && !idle && !scan->all)
		return 0;
	memcpy(out, entry, scan->plan->bytes);
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	if (__atomic_load_n(&entry->flow_id, __ATOMIC_RELAXED) != flow_id)
		return 0;
	out->flow_id = flow_id;
	if (out->status == FEATURES_OPEN)
		features_close(out, scan->plan, idle ? READY_IDLE : READY_END);
	scan->taken[slot] = flow_id;
	entry->status = FEATURES_TOLD;	/* for a consumer that comes after us */
	return 1;
}

/* Returns how many rows were copied to @out, and the slot to go on with. */
static PyObject *scan(PyObject *self, PyObject *args)
{
	unsigned long long table, plan, taken, out;
	unsigned int slot, end, max, found = 0;
	struct scan scan;

	(void)self;
	if (!PyArg_ParseTuple(args, "KKKIIKKpKI", &table, &plan, &taken, &slot, &end, &scan.now,
			      &scan.grace_ns, &scan.all, &out, &max))
		return NULL;
	scan.table = (uint8_t *)(uintptr_t)table;
	scan.plan = (const struct feature_plan *)(uintptr_t)plan;
	scan.taken = (uint64_t *)(uintptr_t)taken;
	Py_BEGIN_ALLOW_THREADS
	for (; slot < end && found < max; slot++)
		found += scan_entry(&scan, slot,
				    (struct feature_entry *)((uint8_t *)(uintptr_t)out +
							     (size_t)found * scan.plan->bytes));
	Py_END_ALLOW_THREADS
	return Py_BuildValue("II", found, slot);
}

PyMethodDef gather_methods[] = {
	{ "features_gather", gather, METH_VARARGS,
	  "features_gather(plan, packets, keys, flow_ids, flows, packets_a_flow, entries)" },
	{ "features_judge", judge, METH_VARARGS,
	  "features_judge(plan, tree, entries, n, sure)" },
	{ "features_scan", scan, METH_VARARGS,
	  "features_scan(table, plan, taken, slot, end, now_ns, grace_ns, all, rows, max)"
	  " -> (rows, slot to go on with)" },
	{ NULL, NULL, 0, NULL },
};
