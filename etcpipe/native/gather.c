// SPDX-License-Identifier: Apache-2.0
/* bpf/features.h on this machine: what the kernel would gather of flows that are rows already. */
#include "native.h"

#include <string.h>

#include "features.h"

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

PyMethodDef gather_methods[] = {
	{ "features_gather", gather, METH_VARARGS,
	  "features_gather(plan, packets, keys, flow_ids, flows, packets_a_flow, entries)" },
	{ NULL, NULL, 0, NULL },
};
