/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * When a record wakes who reads the ring.
 */
#ifndef WAKEUP_H
#define WAKEUP_H

/* Readers poll the ring's descriptor; without this they look once a second. A wake-up is an interrupt, which takes far
 * longer than all else here: above the mark not each record wakes, but the first ones in each step of the fill. No
 * record is as long as what wakes in a step. */
#define WAKEUP_STEP  16384
#define WAKEUP_BYTES 2048

static __always_inline __u64 wakeup_at(__u64 fill, __u64 mark)
{
	return fill >= mark && (fill - mark) % WAKEUP_STEP < WAKEUP_BYTES ? BPF_RB_FORCE_WAKEUP
									  : BPF_RB_NO_WAKEUP;
}

#endif
