/* base/turn.h: a lock that goes round in the order of asking, and that its holder may take again: what an engine's threads take turns by. */
#ifndef FM_BASE_TURN_H
#define FM_BASE_TURN_H

#include <pthread.h>

#include "base/error.h"

typedef struct fm_turn {
    pthread_mutex_t mutex;
    pthread_cond_t moved;
    uint64_t next, serving; /* numbers drawn; whose turn it is */
    pthread_t holder;
    int depth; /* how often the holder took it; 0: free */
    bool open;
} fm_turn;

int fm_turn_open(fm_turn *turn, fm_error *err);
void fm_turn_close(fm_turn *turn);
void fm_turn_take(fm_turn *turn);
void fm_turn_give(fm_turn *turn);
/* The holder lets those that wait go first, however often it took it. */
void fm_turn_pass(fm_turn *turn);

#endif
