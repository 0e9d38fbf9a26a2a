// SPDX-License-Identifier: Apache-2.0
/*
 * Answers of an ensemble of trees. etcpipe.model.Model.answers() with ONNX Runtime is the
 * definition: labels are the same, probabilities within what two exponential functions differ by.
 *
 * A branch is taken one way or the other about as often, so on a walk down a tree most time goes
 * into guesses that were wrong. Nothing is guessed here: all branches of a tree are asked, of
 * several rows at once, and each strikes out leaves that cannot be reached.
 *
 * Source: Lucchese et al., QuickScorer, SIGIR 2015.
 */
#include "native.h"

#include "etcpipe.h"
#include "trees.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define LANES 8			/* rows at once */

typedef float numbers_t __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t masks_t __attribute__((vector_size(LANES * sizeof(int32_t))));

/* One build serves all processors, and takes what this one has. */
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

/* Of one batch; addresses come from etcpipe/gpu/inference_trees.py, which keeps the arrays alive. */
struct work {
	const struct tree_plan *plan;
	const char *rows;			/* [flows][features] of the plan's kind */
	const struct packet_fields *packets;	/* [flows][ranks] */
	const int32_t *family_of;		/* [classes], -1: none */
	struct tree_answer *answers;		/* [flows]; NULL: scores are asked for */
	float *scores;				/* [flows][classes]; of answers: their probabilities */
	long long flows;
	long long features;
	long long ranks;
	long long first_n;			/* packets that the model looks at */
	long long unknown;			/* class that is no answer; -1: there is none */
	float temperature;
	float threshold;			/* below it an answer is a family, or unknown */
	float family_threshold;			/* below it a family is none, either */
};

static float float_of(__u32 bits)
{
	float value;

	memcpy(&value, &bits, sizeof(value));
	return value;
}

static __u32 bits_of(float value)
{
	__u32 bits;

	memcpy(&bits, &value, sizeof(bits));
	return bits;
}

static float number_at(const char *row, __u32 place, __u32 kind)
{
	if (kind == TREES_UINT8)
		return ((const uint8_t *)row)[place];
	if (kind == TREES_INT8)
		return ((const int8_t *)row)[place];
	return ((const float *)row)[place];
}

/* Picks numbers out of rows; lanes that are left over repeat the first row. */
static void pick(const struct work *work, long long flow, int lanes, numbers_t *picked)
{
	const __u32 *places = (const __u32 *)(uintptr_t)work->plan->picked;
	long long size = work->plan->kind == TREES_FLOAT32 ? sizeof(float) : 1;
	float *numbers = (float *)picked;
	__u32 i;
	int lane;

	for (lane = 0; lane < LANES; lane++) {
		long long of = flow + (lane < lanes ? lane : 0);
		const char *row = work->rows + of * work->features * size;

		for (i = 0; i < work->plan->numbers; i++)
			numbers[i * LANES + lane] = number_at(row, places[i], work->plan->kind);
	}
}

/* For each tree, the leaves that are left of each row, a bit each. */
FOR_EACH_PROCESSOR
static void strike(const struct tree_plan *plan, const numbers_t *picked, masks_t *left)
{
	const struct tree_branch *branch = (const struct tree_branch *)(uintptr_t)plan->branches;
	const struct tree_size *sizes = (const struct tree_size *)(uintptr_t)plan->sizes;
	__u32 tree, i;

	for (tree = 0; tree < plan->trees; tree++) {
		masks_t mask = ~(masks_t){};

		for (i = 0; i < sizes[tree].branches; i++, branch++) {
			numbers_t value = (numbers_t){} + float_of(branch->value);
			masks_t kept = (masks_t){} + (int32_t)branch->kept;

			mask &= (picked[branch->number] <= value) | kept;
		}
		left[tree] = mask;
	}
}

/* The scores of a row; trees add up in their order, as float32. */
static void add_up(const struct tree_plan *plan, const int32_t *left, float *scores)
{
	const struct tree_leaf *leaves = (const struct tree_leaf *)(uintptr_t)plan->leaves;
	const struct tree_weight *weights = (const struct tree_weight *)(uintptr_t)plan->weights;
	const struct tree_size *sizes = (const struct tree_size *)(uintptr_t)plan->sizes;
	const float *base = (const float *)(uintptr_t)plan->base;
	__u32 tree, i;

	memset(scores, 0, sizeof(*scores) * plan->classes);
	for (tree = 0; tree < plan->trees; tree++) {
		const struct tree_leaf *leaf = leaves + __builtin_ctz(left[tree * LANES]);

		for (i = leaf->first; i < leaf->first + leaf->weights; i++)
			scores[weights[i].target] += float_of(weights[i].value);
		leaves += sizes[tree].leaves;
	}
	for (i = 0; i < plan->classes; i++)
		scores[i] += base[i];
}

/* Turns scores into probabilities; returns the best class. */
static int soften(float *scores, int classes, float temperature)
{
	float most = -INFINITY, sum = 0;
	int i, best = 0;

	for (i = 0; i < classes; i++) {
		scores[i] /= temperature;
		most = scores[i] > most ? scores[i] : most;
	}
	for (i = 0; i < classes; i++) {
		scores[i] = expf(scores[i] - most);
		sum += scores[i];
	}
	for (i = 0; i < classes; i++) {
		scores[i] /= sum;
		best = scores[i] > scores[best] ? i : best;
	}
	return best;
}

/* Returns the most probable family and, in `together`, the probability of its classes. */
static int best_family(const struct work *work, const float *scores, float *together)
{
	float sums[TREES_CLASSES_MAX];
	int classes = work->plan->classes, best = 0, i;

	memset(sums, 0, sizeof(*sums) * classes);	/* there are no more families */
	for (i = 0; i < classes; i++)
		if (work->family_of[i] >= 0)
			sums[work->family_of[i]] += scores[i];
	for (i = 0; i < classes; i++)
		best = sums[i] > sums[best] ? i : best;
	*together = sums[best];
	return best;
}

static void answer(const struct work *work, long long flow, float *scores)
{
	const struct packet_fields *packets = work->packets + flow * work->ranks;
	struct tree_answer *said = work->answers + flow;
	int classes = work->plan->classes, best, second = -1, family, i;
	long long rank, present = 0;
	float together;

	for (rank = 0; rank < work->ranks; rank++)
		present += packets[rank].present != 0;
	memset(said, 0, sizeof(*said));
	said->packets_used = present < work->first_n ? present : work->first_n;
	said->label = said->runner_up = (__u16)-1;
	if (!present) {
		memset(scores, 0, sizeof(*scores) * classes);
		return;
	}
	best = soften(scores, classes, work->temperature);
	for (i = 0; i < classes; i++)
		if (i != best && (second < 0 || scores[i] > scores[second]))
			second = i;
	said->probability = bits_of(scores[best]);
	said->runner_up = second < 0 ? 0 : second;
	if (!(scores[best] < work->threshold) && best != work->unknown) {
		said->label = best;
		return;
	}
	family = best_family(work, scores, &together);
	if (together >= work->family_threshold) {
		said->label = classes + family;
		said->probability = bits_of(together);
		said->runner_up = best;
	}
}

static void judge(const struct work *work, numbers_t *picked, masks_t *left)
{
	float scores[TREES_CLASSES_MAX];
	long long first;
	int lane, lanes;

	for (first = 0; first < work->flows; first += LANES) {
		lanes = work->flows - first < LANES ? work->flows - first : LANES;
		pick(work, first, lanes, picked);
		strike(work->plan, picked, left);
		for (lane = 0; lane < lanes; lane++) {
			add_up(work->plan, (const int32_t *)left + lane, scores);
			if (work->answers)
				answer(work, first + lane, scores);
			if (work->scores)
				memcpy(work->scores + (first + lane) * work->plan->classes, scores,
				       sizeof(*scores) * work->plan->classes);
		}
	}
}

/* Room for what judge() picks and strikes, freed with the last of it. */
static bool judge_with_room(const struct work *work)
{
	size_t picked = sizeof(numbers_t) * work->plan->numbers;
	size_t left = sizeof(masks_t) * work->plan->trees;
	char *room = aligned_alloc(sizeof(numbers_t), picked + left + sizeof(numbers_t));

	if (room)
		judge(work, (numbers_t *)room, (masks_t *)(room + picked));
	free(room);
	return room;
}

static PyObject *judge_unlocked(const struct work *work)
{
	bool is_done;

	Py_BEGIN_ALLOW_THREADS
	is_done = judge_with_room(work);
	Py_END_ALLOW_THREADS
	if (!is_done)
		return PyErr_NoMemory();
	Py_RETURN_NONE;
}

static PyObject *py_score(PyObject *module, PyObject *args)
{
	unsigned long long plan, rows, scores;
	struct work work = {};

	(void)module;
	if (!PyArg_ParseTuple(args, "KKKLL", &plan, &rows, &scores, &work.flows, &work.features))
		return NULL;
	work.plan = (const struct tree_plan *)(uintptr_t)plan;
	work.rows = (const char *)(uintptr_t)rows;
	work.scores = (float *)(uintptr_t)scores;
	return judge_unlocked(&work);
}

static PyObject *py_judge(PyObject *module, PyObject *args)
{
	unsigned long long plan, rows, packets, answers, family_of, probabilities;
	struct work work = {};

	(void)module;
	if (!PyArg_ParseTuple(args, "KKKKKKLLLLLfff", &plan, &rows, &packets, &family_of, &answers,
			      &probabilities, &work.flows, &work.features, &work.ranks,
			      &work.first_n, &work.unknown, &work.temperature, &work.threshold,
			      &work.family_threshold))
		return NULL;
	work.plan = (const struct tree_plan *)(uintptr_t)plan;
	work.rows = (const char *)(uintptr_t)rows;
	work.packets = (const struct packet_fields *)(uintptr_t)packets;
	work.family_of = (const int32_t *)(uintptr_t)family_of;
	work.answers = (struct tree_answer *)(uintptr_t)answers;
	work.scores = (float *)(uintptr_t)probabilities;
	return judge_unlocked(&work);
}

PyMethodDef tree_methods[] = {
	{ "trees_judge", py_judge, METH_VARARGS,
	  "trees_judge(plan, rows, packets, family_of, answers, probabilities, flows, features, "
	  "ranks, first_n, unknown, temperature, threshold, family_threshold): addresses, that of "
	  "probabilities may be 0; see etcpipe.gpu.inference_trees." },
	{ "trees_score", py_score, METH_VARARGS,
	  "trees_score(plan, rows, scores, flows, features): addresses, as of trees_judge()." },
	{ NULL, NULL, 0, NULL },
};
