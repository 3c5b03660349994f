/* cli/chat/signals.h: Ctrl-C stops an answer or a tool, or clears the line; SIGTERM and SIGHUP end the program in order. */
#ifndef FM_CLI_CHAT_SIGNALS_H
#define FM_CLI_CHAT_SIGNALS_H

#include <stdbool.h>

#include "flash_moe.h"

/* From now on SIGINT, SIGTERM, SIGHUP and SIGWINCH are noted here; those that stop cancel what the engine computes between fm_signals_begin and _end. */
void fm_signals_open(fm_engine *engine);
void fm_signals_close(void);

/* Around computing: forgets an earlier Ctrl-C, then lets one cancel; after it the engine can compute again. */
void fm_signals_begin(void);
void fm_signals_end(void);

bool fm_signals_interrupted(void); /* Ctrl-C came since the last begin or forget */
void fm_signals_forget(void);
bool fm_signals_ended(void);   /* the program is to end */
bool fm_signals_resized(void); /* the terminal has another size since the last call */

#endif
