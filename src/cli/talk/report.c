/* cli/talk/report.c: what `flash-moe run` says after the text: the summary, --stats, --timing, --json. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/talk/run.h"

struct rates {
    double total_seconds, tokens_per_second, prompt_tokens_per_second, hit_rate, read_bytes_per_token, disk_bytes_per_second;
};

static double ratio(double a, double b) { return b > 0 ? a / b : 0; }

/* Hits and bytes are those of the tokens after the first text, or of the prompt if there are none. */
static struct rates rates_of(const struct run *r) {
    const fm_generated *d = &r->done;
    fm_stats a = r->first, b = r->last;

    if (!r->started || b.n_tokens == a.n_tokens) a = (fm_stats){0};
    return (struct rates){
        .total_seconds = d->first_token_seconds + d->decode_seconds,
        .tokens_per_second = ratio(d->n_tokens - 1, d->decode_seconds),
        .prompt_tokens_per_second = ratio(d->n_prompt, d->prompt_seconds),
        .hit_rate = ratio((double)(b.n_hits - a.n_hits), (double)(b.n_requests - a.n_requests)),
        .read_bytes_per_token = ratio((double)(b.disk_bytes - a.disk_bytes), (double)(b.n_tokens - a.n_tokens)),
        .disk_bytes_per_second = ratio((double)(b.disk_bytes - a.disk_bytes), b.disk_seconds - a.disk_seconds),
    };
}

static void print_summary(const struct run *r) {
    const fm_generated *d = &r->done;
    struct rates x = rates_of(r);
    char size[SIZE_TEXT], kept[64] = "";

    if (d->n_kept) snprintf(kept, sizeof kept, ", %d of them from the session cache", d->n_kept);
    fprintf(
        stderr,
        "%d tokens in %.2f s, %.2f tokens/s, first token after %.3f s (prompt %d tokens%s, %.1f tokens/s), hit rate %.1f %%, %s read per token, %.2f GB/s from disk\n",
        d->n_tokens, x.total_seconds, x.tokens_per_second, d->first_token_seconds, d->n_prompt, kept, x.prompt_tokens_per_second, 100 * x.hit_rate,
        fm_disk_text(size, x.read_bytes_per_token), x.disk_bytes_per_second / 1e9);
}

/* "; 120 left out" */
static const char *left_out(const struct run *r, char text[SIZE_TEXT]) {
    uint64_t n = r->last.n_left_out + r->last.n_narrow;

    snprintf(text, SIZE_TEXT, "; %llu times", (unsigned long long)n);
    return n ? text : "";
}

static void print_stats(const struct run *r) {
    const fm_plan *p = fm_engine_plan(r->engine);
    const fm_stats *s = &r->last;
    char a[SIZE_TEXT], b[SIZE_TEXT], c[SIZE_TEXT], d[SIZE_TEXT];

    fprintf(stderr, "memory: budget %s; dense weights %s, sessions %s (%d tokens, %s), experts %s", fm_memory_text(a, p->budget_bytes),
            fm_memory_text(b, p->dense_bytes), fm_memory_text(c, p->session_bytes), p->context, fm_kv_text(p->kv), fm_memory_text(d, p->cache_bytes));
    fprintf(stderr, ", buffers %s, tokenizer %s, program %s; peak %s\n", fm_memory_text(a, p->buffer_bytes), fm_memory_text(b, p->text_bytes),
            fm_memory_text(c, p->overhead_bytes), fm_memory_text(d, fm_peak_memory()));
    fprintf(stderr, "experts: %d of %d fit (%.1f %%), %s each; %llu requests, %.1f %% hits; %llu slots given back\n", p->n_slots, p->n_experts_total,
            100 * ratio(p->n_slots, p->n_experts_total), fm_memory_text(a, p->slot_bytes), (unsigned long long)s->n_requests,
            100 * ratio((double)s->n_hits, (double)s->n_requests), (unsigned long long)s->slots_given_back);
    fprintf(stderr, "disk: %s, %s read in %.2f s, waited for %.2f s\n", fm_engine_io(r->engine), fm_disk_text(a, (double)s->disk_bytes), s->disk_seconds,
            s->stall_seconds);
    if (s->n_guessed) {
        fprintf(stderr, "read ahead: %llu experts, %.1f %% of them were asked for\n", (unsigned long long)s->n_guessed,
                100 * ratio((double)s->n_guesses_used, (double)s->n_guessed));
    }
    if (fm_engine_approximation(r->engine)) fprintf(stderr, "approximation: %s%s\n", fm_engine_approximation(r->engine), left_out(r, a));
    fprintf(stderr, "cpu: %s, %d threads\n", fm_engine_cpu(r->engine), fm_engine_n_threads(r->engine));
    fprintf(stderr, "sampling: temperature %g, top-k %d, top-p %g, min-p %g, repeat penalty %g, seed %llu\n", (double)r->sampling.temperature,
            r->sampling.top_k, (double)r->sampling.top_p, (double)r->sampling.min_p, (double)r->sampling.repeat_penalty, (unsigned long long)r->sampling.seed);
}

static void add_timing(struct table *t, const char *name, double seconds, double total, double tokens) {
    fm_table_add(t, "%s", name);
    fm_table_add(t, "%.3f s", seconds);
    fm_table_add(t, "%.1f %%", 100 * ratio(seconds, total));
    fm_table_add(t, "%.3f ms", 1e3 * ratio(seconds, tokens));
}

static void print_timing(const struct run *r) {
    struct table t = {.n_columns = 4, .n_left = 1};
    double total = 0, tokens = (double)r->last.n_tokens;

    for (int i = 0; i < FM_N_PHASES; i++) total += r->last.phase_seconds[i];
    fm_table_add(&t, "phase");
    fm_table_add(&t, "time");
    fm_table_add(&t, "share");
    fm_table_add(&t, "per token");
    for (int i = 0; i < FM_N_PHASES; i++) add_timing(&t, fm_phase_name(i), r->last.phase_seconds[i], total, tokens);
    add_timing(&t, "all", total, total, tokens);
    fm_table_print(&t, stderr, "  ");
}

static const char *stop_name(int stop) {
    switch (stop) {
    case FM_STOP_EOS: return "eos";
    case FM_STOP_LENGTH: return "length";
    case FM_STOP_STRING: return "string";
    case FM_STOP_CALLS: return "calls";
    default: return "cancelled";
    }
}

static int print_json(const struct run *r) {
    const fm_generated *d = &r->done;
    const fm_stats *s = &r->last;
    const fm_plan *p = fm_engine_plan(r->engine);
    struct rates x = rates_of(r);
    json_t *phases = json_object(), *object, *rest;

    for (int i = 0; i < FM_N_PHASES; i++) json_object_set_new(phases, fm_phase_name(i), json_real(s->phase_seconds[i]));
    object = json_pack("{s:o, s:i, s:i, s:s, s:I, s:f, s:f, s:f, s:f, s:f, s:f}", "text", fm_json_text(r->text.bytes ? r->text.bytes : "", r->text.n), "tokens",
                       d->n_tokens, "prompt_tokens", d->n_prompt, "stop", stop_name(d->stop), "seed", (json_int_t)r->sampling.seed, "total_seconds",
                       x.total_seconds, "prompt_seconds", d->prompt_seconds, "first_token_seconds", d->first_token_seconds, "decode_seconds", d->decode_seconds,
                       "tokens_per_second", x.tokens_per_second, "prompt_tokens_per_second", x.prompt_tokens_per_second);
    rest = json_pack("{s:f, s:f, s:f, s:I, s:f, s:f, s:I, s:I, s:I, s:s, s:i, s:i, s:s, s:s, s:i, s:o}", "hit_rate", x.hit_rate, "read_bytes_per_token",
                     x.read_bytes_per_token, "disk_bytes_per_second", x.disk_bytes_per_second, "disk_bytes", (json_int_t)s->disk_bytes, "disk_seconds",
                     s->disk_seconds, "stall_seconds", s->stall_seconds, "memory_peak_bytes", (json_int_t)fm_peak_memory(), "memory_budget_bytes",
                     (json_int_t)p->budget_bytes, "session_bytes", (json_int_t)p->session_bytes, "kv", fm_kv_text(p->kv), "n_slots", p->n_slots,
                     "n_experts_total", p->n_experts_total, "cpu", fm_engine_cpu(r->engine), "io", fm_engine_io(r->engine), "n_threads",
                     fm_engine_n_threads(r->engine), "phase_seconds", phases);
    json_object_update(object, rest);
    json_decref(rest);
    json_object_set_new(object, "prompt_kept", json_integer(d->n_kept));
    if (r->templated) {
        json_object_set_new(object, "message", json_loads(r->answered.message ? r->answered.message : "", 0, NULL));
        json_object_set_new(object, "reasoning_tokens", json_integer(r->answered.n_reasoning));
    }
    json_object_set_new(object, "approximation", fm_engine_approximation(r->engine) ? json_string(fm_engine_approximation(r->engine)) : json_null());
    json_object_set_new(object, "n_left_out", json_integer((json_int_t)s->n_left_out));
    json_object_set_new(object, "n_narrow", json_integer((json_int_t)s->n_narrow));
    json_object_set_new(object, "n_guessed", json_integer((json_int_t)s->n_guessed));
    json_object_set_new(object, "n_guesses_used", json_integer((json_int_t)s->n_guesses_used));
    return fm_json_print(object);
}

/* The text ends its line where people read it: on a terminal, and where the summary follows it in one file. */
static int end_line(const struct run *r) {
    struct stat out, err;

    if (isatty(STDOUT_FILENO) && r->end != '\n') {
        putchar('\n');
        return fm_finish_output();
    }
    if (r->end && r->end != '\n' && fstat(STDOUT_FILENO, &out) == 0 && fstat(STDERR_FILENO, &err) == 0 && out.st_dev == err.st_dev && out.st_ino == err.st_ino)
        fputc('\n', stderr);
    return 0;
}

int fm_run_finish(struct run *r) {
    int status = 0;

    fm_engine_stats(r->engine, &r->last);
    if (r->reader_left) return 0;
    if (r->options->json)
        status = print_json(r);
    else
        status = end_line(r);
    print_summary(r);
    if (r->options->stats) print_stats(r);
    if (r->options->timing) print_timing(r);
    return fm_cancelled() ? EXIT_CANCELLED : status;
}
