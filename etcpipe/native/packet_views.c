// SPDX-License-Identifier: Apache-2.0
/* Views of packets' fields for gpu/packets_native.py, which checks all arrays and keeps them alive. */
#include "native.h"

#include "bits.h"
#include "tokens.h"

#include <stdbool.h>

/* Arguments of a view, addresses as numbers. */
struct call {
	struct kept_flows flows;
	unsigned long long n;
	unsigned long long rows;
	unsigned long long gaps_us;
};

static bool parse(PyObject *args, struct call *call)
{
	unsigned long long keys, packets, raw;

	if (!PyArg_ParseTuple(args, "KKKKIIIK|K", &keys, &packets, &raw, &call->n,
			      &call->flows.ranks, &call->flows.raw_len, &call->flows.depth,
			      &call->rows, &call->gaps_us))
		return false;
	call->flows.keys = (const struct flow_key *)(uintptr_t)keys;
	call->flows.packets = (const struct packet_fields *)(uintptr_t)packets;
	call->flows.raw = (const uint8_t *)(uintptr_t)raw;
	return true;
}

/* Write all rows without the interpreter lock, each by @put. */
static PyObject *put_rows(PyObject *args, void (*put)(const struct call *call, uint64_t flow))
{
	struct call call = {};
	uint64_t i;

	if (!parse(args, &call))
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	for (i = 0; i < call.n; i++)
		put(&call, i);
	Py_END_ALLOW_THREADS
	Py_RETURN_NONE;
}

static void put_tok(const struct call *call, uint64_t flow)
{
	tokens_of_flow(&call->flows, flow, (float *)(uintptr_t)call->rows,
		       (double *)(uintptr_t)call->gaps_us + flow * TOK_PACKETS);
}

static void put_bits(const struct call *call, uint64_t flow)
{
	bits_of_flow(&call->flows, flow, (int8_t *)(uintptr_t)call->rows);
}

static PyObject *py_tok(PyObject *module, PyObject *args)
{
	(void)module;
	return put_rows(args, put_tok);
}

static PyObject *py_bits(PyObject *module, PyObject *args)
{
	(void)module;
	return put_rows(args, put_bits);
}

PyMethodDef packet_view_methods[] = {
	{ "view_tok", py_tok, METH_VARARGS,
	  "view_tok(keys, packets, raw, flows, ranks, raw_len, depth, rows, gaps_us): addresses; "
	  "see etcpipe.gpu.tokens_native." },
	{ "view_bits", py_bits, METH_VARARGS,
	  "view_bits(keys, packets, raw, flows, ranks, raw_len, depth, rows): addresses; see "
	  "etcpipe.gpu.bits_native." },
	{ NULL, NULL, 0, NULL },
};
