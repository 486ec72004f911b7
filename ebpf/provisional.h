/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Until somebody uses it, an accepted socket is its listener's owner's: `provisional` is 1 then, and one more for each
 * drain that has waited for its user. Whoever uses it first takes it over, with OWNER_CHANGES while the owner is being
 * written, and 0 from then on.
 */
#ifndef PROVISIONAL_H
#define PROVISIONAL_H

/* Two drains wait. */
#define PROVISIONAL_MAX 3
#define OWNER_CHANGES	0xffffffff

/* Read after whatever stands in front of it. */
#define PROVISIONAL_NOW(state) __sync_fetch_and_add(&(state)->provisional, 0)

/* Each plan has its own. */
static __always_inline void write_owner(struct socket_state *state, struct task_struct *task);

/* True for the one that has to write the owner. */
static __always_inline bool begin_change(struct socket_state *state)
{
	__u32 before = state->provisional;

	/* Drains meanwhile change it twice at the most. */
	for (int i = 0; i < PROVISIONAL_MAX; i++) {
		__u32 found;

		if (!before || before == OWNER_CHANGES)
			return false;
		found = __sync_val_compare_and_swap(&state->provisional, before, OWNER_CHANGES);
		if (found == before)
			return true;
		before = found;
	}
	return false;
}

/* True for whom it is from then on. */
static __always_inline bool take_over(struct socket_state *state, struct task_struct *task)
{
	if (!begin_change(state))
		return false;
	write_owner(state, task);
	__sync_lock_test_and_set(&state->provisional, 0);
	return true;
}

/* For drains. */
static __always_inline bool has_waited(struct socket_state *state, __u32 provisional)
{
	if (provisional < PROVISIONAL_MAX)
		__sync_val_compare_and_swap(&state->provisional, provisional, provisional + 1);
	/* An earlier build's drains went on counting. */
	return provisional >= PROVISIONAL_MAX && provisional != OWNER_CHANGES;
}

/* Fills a record, whose counts stay where they are if it returns false: the owner changed at this moment. */
static __always_inline bool report(struct flow_record *record, struct socket_state *state,
				   __u32 provisional)
{
	fill_record(record, state, 0);
	if (!provisional) {
		take_counts(record, state);
		return true;
	}
	if (PROVISIONAL_NOW(state) != provisional)
		return false;
	take_counts(record, state);
	/* What its user has counted since is among them. */
	if (!PROVISIONAL_NOW(state))
		fill_record(record, state, 0);
	return true;
}

#endif
