/* cli/options.c: reads a command line by its tables, and prints --help from the same tables. It knows no command and no option of its own but --help; what a command calls MODEL is
 * looked for. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

/* ---- numbers ---- */

/* The number that text begins with; *end is after it. strtod alone takes spaces, hexadecimal, inf and nan. */
static double number(const char *text, char **end) {
    const char *digits = text + (*text == '-' || *text == '+');

    *end = (char *)text;
    if (!(*digits >= '0' && *digits <= '9') && !(*digits == '.' && digits[1] >= '0' && digits[1] <= '9')) return NAN;
    if (digits[0] == '0' && (digits[1] == 'x' || digits[1] == 'X')) return NAN;
    return strtod(text, end);
}

int fm_parse_float(const char *what, const char *text, double least, double most, float *out, fm_error *err) {
    char *end;
    double x = number(text, &end);

    if (isnan(x) || *end) return fm_cli_fail(err, FM_EINVAL, "%s needs a number from %g to %g, not '%s'", what, least, most, text);
    if (x < least || x > most) return fm_cli_fail(err, FM_EINVAL, "%s is %s, but must be from %g to %g", what, text, least, most);
    *out = (float)x;
    return 0;
}

/* Whole numbers as written: 1e3 and 1.0 are no integers. */
static int parse_whole(const char *what, const char *text, const int64_t range[2], int64_t *out, fm_error *err) {
    const char *digits = text + (*text == '-' || *text == '+');
    char *end;

    errno = 0;
    *out = strtoll(text, &end, 10);
    if (!(*digits >= '0' && *digits <= '9') || *end)
        return fm_cli_fail(err, FM_EINVAL, "%s needs a whole number from %lld to %lld, not '%s'", what, (long long)range[0], (long long)range[1], text);
    if (errno == ERANGE || *out < range[0] || *out > range[1])
        return fm_cli_fail(err, FM_EINVAL, "%s is %s, but must be from %lld to %lld", what, text, (long long)range[0], (long long)range[1]);
    return 0;
}

int fm_parse_int(const char *what, const char *text, double least, double most, int *out, fm_error *err) {
    int64_t x, range[2] = {(int64_t)least, (int64_t)most};
    int rc = parse_whole(what, text, range, &x, err);

    if (rc == 0) *out = (int)x;
    return rc;
}

int fm_parse_size(const char *what, const char *text, uint64_t *out, fm_error *err) {
    static const char letters[] = "KMGT";
    char *end;
    double x = number(text, &end), base = 1024;
    const char *letter = *end ? strchr(letters, *end >= 'a' ? *end - 'a' + 'A' : *end) : NULL;
    int power = letter ? (int)(letter - letters) + 1 : 0;

    if (!isnan(x)) {
        const char *unit = end + (power > 0);
        if (strcmp(unit, "B") == 0)
            base = power ? 1000 : 1;
        else if (*unit && !(power > 0 && strcmp(unit, "iB") == 0))
            x = NAN;
    }
    if (!(x >= 0) || (power == 0 && x != floor(x)))
        return fm_cli_fail(err, FM_EINVAL, "%s needs a size such as 12G, 1.5G, 800M, 24MiB or bytes, not '%s'", what, text);
    x *= pow(base, power);
    if (x < 1 || x > 0x1p60) return fm_cli_fail(err, FM_EINVAL, "%s is %s, but must be from 1 byte to 1048576T", what, text);
    *out = (uint64_t)x;
    return 0;
}

/* ---- the closest word ---- */

#define MAX_WORD 40

static int smallest(int a, int b, int c) { return a < b ? (a < c ? a : c) : (b < c ? b : c); }

/* Letters to insert, delete, change or swap with the next to get from a to b. */
static int edit_distance(const char *a, const char *b) {
    int n = (int)strlen(a), m = (int)strlen(b), d[3][MAX_WORD + 1];

    if (n > MAX_WORD || m > MAX_WORD) return MAX_WORD;
    for (int j = 0; j <= m; j++) d[0][j] = j;
    for (int i = 1; i <= n; i++) {
        int *row = d[i % 3], *above = d[(i + 2) % 3], *above2 = d[(i + 1) % 3];
        row[0] = i;
        for (int j = 1; j <= m; j++) {
            row[j] = smallest(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) row[j] = smallest(row[j], above2[j - 2] + 1, row[j]);
        }
    }
    return d[n % 3][m];
}

const char *fm_closest(const char *word, const char *const *names, int n) {
    int limit = strlen(word) < 6 ? 1 : (int)strlen(word) / 3, least = limit + 1;
    const char *found = NULL;

    for (int i = 0; i < n; i++) {
        size_t n_word = strlen(word), n_name = strlen(names[i]), shorter = n_word < n_name ? n_word : n_name;
        bool begins = shorter >= 3 && strncmp(word, names[i], shorter) == 0; /* --temperature for --temp */
        int distance = begins ? 1 : edit_distance(word, names[i]);
        if (distance < least && distance < (int)n_name) {
            least = distance;
            found = names[i];
        }
    }
    return found;
}

/* ---- reading ---- */

struct parser {
    const struct cli_command *command;
    const struct option_group *groups;
    int n_groups;
    char **next; /* argv that is left */
    fm_error err;
};

struct found_option {
    const struct cli_option *option;
    void *value;
    char shown[MAX_WORD + 4]; /* "--temp" or "-n", as it was typed */
};

static bool find_option(const struct parser *p, const char *name, size_t n, char letter, struct found_option *found) {
    for (int g = 0; g < p->n_groups; g++) {
        for (int i = 0; i < p->groups[g].n; i++) {
            const struct cli_option *o = &p->groups[g].options[i];
            if (name ? strlen(o->name) != n || memcmp(o->name, name, n) != 0 : o->letter != letter) continue;
            found->option = o;
            found->value = (char *)p->groups[g].values + o->offset;
            if (name)
                snprintf(found->shown, sizeof found->shown, "--%s", o->name);
            else
                snprintf(found->shown, sizeof found->shown, "-%c", letter);
            return true;
        }
    }
    return false;
}

static int unknown_option(struct parser *p, const char *word, size_t n) {
    const char *names[128] = {"help"}, *closest;
    char name[MAX_WORD + 1];
    int n_names = 1;

    for (int g = 0; g < p->n_groups; g++)
        for (int i = 0; i < p->groups[g].n && n_names < 128; i++) names[n_names++] = p->groups[g].options[i].name;
    snprintf(name, sizeof name, "%.*s", (int)n, word);
    closest = n <= MAX_WORD ? fm_closest(name, names, n_names) : NULL;
    if (closest) return fm_cli_fail(&p->err, FM_EINVAL, "unknown option --%.*s; did you mean --%s?", (int)n, word, closest);
    return fm_cli_fail(&p->err, FM_EINVAL, "unknown option --%.*s; flash-moe %s --help lists them", (int)n, word, p->command->name);
}

static int add_to_list(struct text_list *list, const char *text, fm_error *err) {
    const char **items = realloc(list->items, (size_t)(list->n + 1) * sizeof *items);

    if (!items) return fm_cli_fail(err, FM_ENOMEM, "no memory for the command line");
    list->items = items;
    list->items[list->n++] = text;
    return 0;
}

static int parse_choice(const char *what, const char *choices, const char *text, int *out, fm_error *err) {
    size_t n = strlen(text);
    int index = 0;

    for (const char *c = choices; c; c = strchr(c, '|') ? strchr(c, '|') + 1 : NULL, index++) {
        if (n > 0 && strncmp(c, text, n) == 0 && (c[n] == '|' || c[n] == 0)) {
            *out = index;
            return 0;
        }
    }
    return fm_cli_fail(err, FM_EINVAL, "%s is one of %s, not '%s'", what, choices, text);
}

static int parse_percent(const struct found_option *f, const char *text, fm_error *err) {
    size_t n = strlen(text);
    char number[32];

    snprintf(number, sizeof number, "%.*s", (int)(n > 0 && text[n - 1] == '%' ? n - 1 : n), text);
    int rc = n < sizeof number ? fm_parse_float(f->shown, number, f->option->least, f->option->most, f->value, err)
                               : fm_cli_fail(err, FM_EINVAL, "%s needs a percentage, not '%.40s'", f->shown, text);
    if (rc == 0) *(float *)f->value /= 100;
    return rc;
}

static int set_value(const struct found_option *f, const char *text, fm_error *err) {
    const struct cli_option *o = f->option;
    int64_t whole, seeds[2] = {0, INT64_MAX};
    int rc;

    switch (o->kind) {
    case OPTION_ID:
    case OPTION_TEXT: *(const char **)f->value = text; return 0;
    case OPTION_LIST: return add_to_list(f->value, text, err);
    case OPTION_INT: return fm_parse_int(f->shown, text, o->least, o->most, f->value, err);
    case OPTION_FLOAT: return fm_parse_float(f->shown, text, o->least, o->most, f->value, err);
    case OPTION_PERCENT: return parse_percent(f, text, err);
    case OPTION_SIZE: return fm_parse_size(f->shown, text, f->value, err);
    case OPTION_CHOICE: return parse_choice(f->shown, o->argument, text, f->value, err);
    default:
        if ((rc = parse_whole(f->shown, text, seeds, &whole, err)) == 0) *(uint64_t *)f->value = (uint64_t)whole;
        return rc;
    }
}

/* One option and its value: --name=value, --name value, -nvalue, -n value. */
static int parse_option(struct parser *p, const char *word) {
    struct found_option f;
    const char *value = NULL;

    if (word[1] == '-') {
        size_t n = strcspn(word + 2, "=");
        if (!find_option(p, word + 2, n, 0, &f)) return unknown_option(p, word + 2, n);
        if (word[2 + n]) value = word + 3 + n;
    } else {
        if (!find_option(p, NULL, 0, word[1], &f))
            return fm_cli_fail(&p->err, FM_EINVAL, "unknown option -%c; flash-moe %s --help lists them", word[1], p->command->name);
        if (word[2]) value = word + 2 + (word[2] == '=');
    }
    if (f.option->kind == OPTION_FLAG) {
        if (value) return fm_cli_fail(&p->err, FM_EINVAL, "%s takes no value, but has '%s'", f.shown, value);
        *(bool *)f.value = true;
        return 0;
    }
    if (f.option->kind == OPTION_ID && !value) {
        value = *p->next ? *p->next : "";
        if (!(*value >= '0' && *value <= '9') || value[strspn(value, "0123456789abcdef-")]) value = "";
    }
    if (!value && !(value = *p->next)) return fm_cli_fail(&p->err, FM_EINVAL, "%s needs a value: %s %s", f.shown, f.shown, f.option->argument);
    if (value == *p->next) p->next++;
    return set_value(&f, value, &p->err);
}

int fm_options_set(const struct option_group *groups, int n_groups, const char *name, const char *text, fm_error *err) {
    const struct parser p = {.groups = groups, .n_groups = n_groups};
    const char *names[128], *closest;
    struct found_option f;
    int n = 0;

    if (find_option(&p, name, strlen(name), 0, &f) && f.option->kind != OPTION_FLAG && f.option->kind != OPTION_LIST) {
        snprintf(f.shown, sizeof f.shown, "%s", f.option->name);
        return set_value(&f, text, err);
    }
    for (int g = 0; g < n_groups; g++)
        for (int i = 0; i < groups[g].n && n < 128; i++) names[n++] = groups[g].options[i].name;
    closest = fm_closest(name, names, n);
    return fm_cli_fail(err, FM_EINVAL, "there is nothing to set named %s%s%s", name, closest ? "; did you mean " : "", closest ? closest : "");
}

/* ---- help ---- */

static void print_option(const struct cli_option *o) {
    char head[64], letter[8] = "    ";
    const char *line = o->help;

    if (o->letter) snprintf(letter, sizeof letter, "-%c, ", o->letter);
    snprintf(head, sizeof head, "%s--%s%s%s", letter, o->name, o->argument ? " " : "", o->argument ? o->argument : "");
    while (*line) {
        int n = (int)strcspn(line, "\n");
        printf("  %-30s %.*s\n", line == o->help ? head : "", n, line);
        line += n + (line[n] == '\n');
    }
}

static void print_help(const struct parser *p) {
    static const struct cli_option help = {.name = "help", .letter = 'h', .help = "this text"};

    printf("flash-moe %s: %s\n\n  flash-moe %s %s\n\n%s", p->command->name, p->command->summary, p->command->name, p->command->arguments, p->command->text);
    for (int g = 0; g < p->n_groups; g++) {
        printf("\n%s\n", p->groups[g].title);
        for (int i = 0; i < p->groups[g].n; i++) print_option(&p->groups[g].options[i]);
    }
    printf("\n");
    print_option(&help);
}

/* Models that are named as on the hub. */
static int find_models(const struct cli_command *command, struct cli_words *words, int *status) {
    int n = strstr(command->arguments, "OTHER") ? 2 : strncmp(command->arguments, "MODEL", 5) == 0 || strncmp(command->arguments, "DIR", 3) == 0;
    fm_error err = {0};

    for (int i = 0; i < n && i < words->n; i++) {
        if (fm_find_model(&words->words[i], words->models[i], &err) == 0) continue;
        *status = fm_report(&err);
        return 1;
    }
    return 0;
}

int fm_options_parse(const struct cli_command *command, const struct option_group *groups, int n_groups, int n_words, struct cli_words *words, char **argv,
                     int *status) {
    struct parser p = {.command = command, .groups = groups, .n_groups = n_groups, .next = argv};
    bool only_words = false;

    *words = (struct cli_words){0};
    while (*p.next && p.err.code == 0) {
        const char *word = *p.next++;
        if (!only_words && strcmp(word, "--") == 0) {
            only_words = true;
        } else if (!only_words && (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)) {
            print_help(&p);
            *status = fm_finish_output();
            return 1;
        } else if (!only_words && word[0] == '-' && word[1]) {
            parse_option(&p, word);
        } else if (words->n == abs(n_words)) {
            fm_cli_fail(&p.err, FM_EINVAL, "'%s' is one word too many; a text of several words is put in quotes", word);
        } else {
            words->words[words->n++] = word;
        }
    }
    if (p.err.code == 0 && words->n == 0 && n_words > 0)
        fm_cli_fail(&p.err, FM_EINVAL, "%s needs %s: flash-moe %s %s", command->name,
                    strncmp(command->arguments, "MODEL", 5) == 0 ? "MODEL, the directory of a model" : command->arguments, command->name, command->arguments);
    if (p.err.code == 0) return find_models(command, words, status);
    *status = fm_usage_error("%s", p.err.message);
    return 1;
}
