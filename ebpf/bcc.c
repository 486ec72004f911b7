// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * The programs for kernels without BTF, which BCC compiles on the machine they run on, from its kernel's headers.
 *
 * The records, the control block and the rules of what is counted where are those of picosnitch.bpf.c. What differs
 * is where these programs stand (kprobes, and raw tracepoints, which need no BTF) and what they may use there: every
 * field of the kernel is copied by a helper, sockets are found in a hash instead of storage of their own, and in
 * place of iterators there are queues of what has counted something (bcc_drain.h).
 *
 * The Makefile puts all that is included into one text: BCC only knows maps and programs of the main file.
 */
#include "bcc_kernel.h"
#include "picosnitch.h"
#include "wakeup.h"
#include "bcc_maps.h"
#include "reports.h"
#include "bcc_lineage.h"
#include "provisional.h"
#include "bcc_sockets.h"
#include "bcc_accounting.h"
#include "bcc_connections.h"
#include "bcc_calls.h"
#include "bcc_drain.h"
#include "bcc_dns.h"
#include "bcc_processes.h"
