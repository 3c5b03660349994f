/* hub/fetch_file.h: the inside of fetching: one file, as pieces that arrive in any order and are written in one. */
#ifndef FM_HUB_FETCH_FILE_H
#define FM_HUB_FETCH_FILE_H

#include "hub/fetch.h"
#include "hub/hash.h"

#define FM_PIECE_BYTES ((uint64_t)8 << 20)

/* Bytes [begin, end) of a file. The first piece of a file is written as it comes, the others wait in memory until they are the first. */
typedef struct fm_fetch_piece {
    struct fm_fetch_piece *next;
    uint64_t begin, end, got;
    uint8_t *data; /* NULL: the first */
    bool asked;    /* a connection has it */
} fm_fetch_piece;

typedef enum fm_transfer_state { FM_TRANSFER_WAITING, FM_TRANSFER_OPEN, FM_TRANSFER_DONE } fm_transfer_state;

typedef struct fm_transfer {
    const fm_fetch_file *to;
    fm_transfer_state state;
    int fd, lock;
    uint64_t at, next; /* bytes on the disk; the first byte that no piece has */
    fm_fetch_piece *pieces;
    int n_moves; /* since the last answer that was none */
    int n_asked; /* pieces that connections have */
    fm_hub_hash hash;
    char *url;         /* where the hub sends on to; NULL: not known, or the hub itself */
    bool known;        /* where the bytes come from */
    bool no_ranges;    /* the server sends whole files only */
    bool restart;      /* from the first byte on, when no connection has a piece */
    bool resumed;      /* part of it was there before */
    int failures;      /* in a row */
    double not_before; /* of the next request */
} fm_transfer;

/* Takes the lock and what is there. 1: open; 0: another program has the lock; FM_E…. It may be done at once. cancelled is asked while what is there is read. */
int fm_transfer_open(fm_transfer *t, const fm_hub *hub, fm_error *err);
/* The next piece to ask for, if it may have one more: one that was given back, or a new one. NULL: none, or *rc < 0. room: pieces that may still wait in memory. */
fm_fetch_piece *fm_transfer_piece(fm_transfer *t, int room, int *rc, fm_error *err);
/* Bytes of a piece. They go behind what it has. */
int fm_transfer_take(fm_transfer *t, fm_fetch_piece *piece, const void *data, size_t bytes, fm_error *err);
/* After a request: writes what has become the first. 1: all that is wanted is there. */
int fm_transfer_settle(fm_transfer *t, fm_error *err);
/* Back to no byte, without pieces. */
int fm_transfer_restart(fm_transfer *t, fm_error *err);
/* Checks the hash and gives the file its name. 0: it is done; 1: the hash was wrong, but part of it was older than this run: it begins again; FM_EFORMAT. */
int fm_transfer_finish(fm_transfer *t, const char *repo, fm_error *err);
/* Gives everything back; what is on the disk stays. */
void fm_transfer_close(fm_transfer *t);
/* Bytes that are there, in memory too. */
uint64_t fm_transfer_bytes(const fm_transfer *t);

#endif
