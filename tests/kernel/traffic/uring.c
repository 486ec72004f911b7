// SPDX-License-Identifier: Apache-2.0
#include "traffic.h"
const struct via uring_send_vias[] = { { NULL, NULL, NULL } };
const struct via uring_receive_vias[] = { { NULL, NULL, NULL } };
void ring_close(struct ring *ring)
{
	(void)ring;
}
