/* cli/chat/store.h: conversations that are kept: one JSON file each, with the messages in OpenAI's form, in the user's data directory. */
#ifndef FM_CLI_CHAT_STORE_H
#define FM_CLI_CHAT_STORE_H

#include <jansson.h>
#include <limits.h>
#include <stdint.h>

#include "flash_moe.h"

#define TALK_ID 32

struct talk {
    char id[TALK_ID];     /* "20250611-101444-3f2a": when it began, and a number */
    char model[PATH_MAX]; /* real path of the model's directory */
    int64_t begun;        /* seconds since 1970 */
    int64_t changed_ms;   /* milliseconds */
    json_t *messages;     /* list; the first may be the system's */
};

/* A new, empty conversation. */
int fm_talk_open(struct talk *talk, const char *model, fm_error *err);
void fm_talk_close(struct talk *talk);

/* Whole or not at all, readable by the user alone. */
int fm_talk_save(const struct talk *talk, const char *path, fm_error *err);
/* *talk is as it was after an error. FM_EIO, or FM_EFORMAT for a file that is no conversation, saying what is wrong. */
int fm_talk_load(struct talk *talk, const char *path, fm_error *err);

const char *fm_talk_text(const json_t *message); /* the content; "" if there is none */
const char *fm_talk_role(const json_t *message);
/* The index of the last message of a role; -1: there is none. */
int fm_talk_last(const struct talk *talk, const char *role);
/* Removes the messages from index on. */
void fm_talk_cut(struct talk *talk, int index);
/* Adds {"role", "content"}; what is no UTF-8 becomes U+FFFD. */
int fm_talk_add(struct talk *talk, const char *role, const char *text, size_t n, fm_error *err);
/* Adds an object in OpenAI's form, or fails if it is none. */
int fm_talk_add_json(struct talk *talk, const char *json, fm_error *err);
/* The system message; NULL or "" removes it. */
int fm_talk_set_system(struct talk *talk, const char *text, fm_error *err);
const char *fm_talk_system(const struct talk *talk); /* "" if there is none */
int fm_talk_n_turns(const struct talk *talk);        /* messages of the user */

/* "DIR/flash-moe/NAME" in XDG_DATA_HOME or ~/.local/share; its directories are made. NULL: there is no such directory, or it cannot be made. */
const char *fm_data_path(char *path, size_t size, const char *name);
/* The file of a kept conversation; id may be the beginning of one, or NULL for the one that changed last. FM_EINVAL if there is none, or several. */
int fm_talk_find(char path[PATH_MAX], const char *id, fm_error *err);

struct talk_entry {
    char id[TALK_ID], title[80]; /* the user's first words */
    int64_t changed_ms;
    int n_turns;
};

/* The kept ones, the one that changed last first, malloc'd; files that cannot be read are left out. Returns their number. */
int fm_talk_list(struct talk_entry **out, fm_error *err);

#endif
