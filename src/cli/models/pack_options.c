/* cli/models/pack_options.c: see pack_options.h. */
#include "cli/models/pack_options.h"

#include <string.h>

#define AT(field) offsetof(struct pack_choices, field)

const struct cli_option fm_pack_table[] = {
    {"experts", 0, OPTION_TEXT, AT(experts), "keep|2|3|4|5|6|8|bf16[,2|4]",
     "\nbits of the experts' weights (default: keep, bit for bit), and of a second\ncopy of each, for run --cold-bits", 0, 0},
    {"dense", 0, OPTION_CHOICE, AT(dense), "keep|2|3|4|5|6|8|bf16", "\nthe same of all other matrices; routers keep 8 at least (default: keep)", 0, 0},
    {"group", 0, OPTION_CHOICE, AT(group), "32|64|128", "weights that share a scale in what is quantised\n(default: as in the source, else 64)", 0, 0},
    {"search", 0, OPTION_FLAG, AT(search), NULL, "look for scales with less error than MLX's rule gives: slower", 0, 0},
    {"profile", 0, OPTION_TEXT, AT(profile), "FILE", "weigh the search's errors by what flash-moe profile saw", 0, 0},
    {"rules", 0, OPTION_TEXT, AT(rules), "FILE",
     "other bits for some matrices, as JSON:\n[{\"tensors\": \"*.down_proj\", \"layers\": \"0-3\", \"bits\": 6}, …]", 0, 0},
    {"delete-consumed", 0, OPTION_FLAG, AT(delete_consumed), NULL,
     "give the source's weights back to the disk as they are packed; its files\nare gone at the end (pull: no snapshot is kept), so that one model and a\nfew "
     "shards have to fit",
     0, 0},
    {"memory", 'm', OPTION_SIZE, AT(memory), "SIZE", "memory that packing may use (default: half of what is free, at most 2G)", 0, 0},
    {"threads", 't', OPTION_INT, AT(threads), "N", "threads that read, convert and write\n(default: one per CPU and six more)", 1, 1024},
};
const int fm_pack_table_n = sizeof fm_pack_table / sizeof *fm_pack_table;

static const int bits[] = {FM_BITS_KEEP, 2, 3, 4, 5, 6, 8, FM_BITS_BF16}, groups[] = {32, 64, 128};

/* "4,2": bits of the experts and of their second copies. */
static int parse_experts(const char *text, fm_pack_options *options) {
    static const char *const names[] = {"keep", "2", "3", "4", "5", "6", "8", "bf16"};
    const char *comma = text ? strchr(text, ',') : NULL;
    size_t n = !text ? 0 : comma ? (size_t)(comma - text) : strlen(text);
    int found = text ? -1 : 0;

    for (int i = 0; i < 8 && text; i++) {
        if (strlen(names[i]) == n && strncmp(names[i], text, n) == 0) found = i;
    }
    if (found < 0 || (comma && strcmp(comma, ",2") != 0 && strcmp(comma, ",4") != 0))
        return fm_usage_error("--experts is one of keep, 2, 3, 4, 5, 6, 8 and bf16, and may end in ,2 or ,4, not '%s'", text);
    options->experts = bits[found];
    options->experts_too = comma ? comma[1] - '0' : 0;
    return 0;
}

int fm_pack_choose(const struct pack_choices *choices, fm_pack_options *options) {
    *options = (fm_pack_options)FM_PACK_OPTIONS_INIT;
    options->dense = bits[choices->dense];
    options->group = choices->group < 0 ? 0 : groups[choices->group];
    options->search = choices->search;
    options->delete_consumed = choices->delete_consumed;
    options->profile = choices->profile;
    options->rules = choices->rules;
    options->memory_bytes = choices->memory;
    options->n_threads = choices->threads;
    return parse_experts(choices->experts, options);
}

static size_t value_bytes(int kind) {
    return kind == OPTION_FLAG ? sizeof(bool) : kind == OPTION_TEXT ? sizeof(char *) : kind == OPTION_SIZE ? sizeof(uint64_t) : sizeof(int);
}

const char *fm_pack_given(const struct pack_choices *choices) {
    const struct pack_choices none = PACK_CHOICES_INIT;

    for (int i = 0; i < fm_pack_table_n; i++) {
        const struct cli_option *o = &fm_pack_table[i];
        if (memcmp((const char *)choices + o->offset, (const char *)&none + o->offset, value_bytes(o->kind)) != 0) return o->name;
    }
    return NULL;
}
