/* template/parser.c: parses statements: everything between {% and %} and the text around it. See syntax.h. */
#include <string.h>

#include "template/syntax.h"

#define MAX_NESTING 100 /* of expressions and blocks */
#define MAX_DEPTH 200   /* of the tree, which evaluation descends */

/* ---- what both parsers use */

fm_node *fm_node_new(fm_parser *p, fm_node_kind kind, int line) {
    fm_node *node = fm_take_zeroed(p->run, sizeof *node);
    node->kind = kind;
    node->line = line;
    node->depth = 1;
    return node;
}

void fm_node_part(fm_parser *p, fm_node *node, const fm_node *part) {
    if (node->depth <= part->depth) node->depth = part->depth + 1;
    if (node->depth > MAX_DEPTH) fm_refuse(p->run, FM_EFULL, "an expression of more than %d operations within each other", MAX_DEPTH);
}

void fm_node_add(fm_parser *p, fm_node *node, fm_node *item) {
    if (node->n == node->cap) {
        size_t cap = node->cap ? 2 * node->cap : 4;
        node->items = fm_take_more(p->run, node->items, node->n * sizeof *node->items, cap * sizeof *node->items);
        node->cap = cap;
    }
    node->items[node->n++] = item;
    if (item) fm_node_part(p, node, item);
}

static const fm_text *intern(fm_parser *p, const char *name, size_t bytes) {
    const fm_text text = {.data = name, .bytes = bytes};
    fm_value *found = fm_dict_find_text(p->names, &text);
    if (found) return found->text;
    fm_value value = fm_string(fm_text_borrow(p->run, name, bytes));
    fm_dict_set(p->run, p->names, value, value);
    return value.text;
}

static bool token_is(const fm_token *token, fm_token_kind kind, const char *text) {
    size_t n = strlen(text);
    return token->kind == kind && token->bytes == n && memcmp(token->text, text, n) == 0;
}

bool fm_at_operator(const fm_parser *p, const char *operator) { return token_is(p->token, FM_TOKEN_OPERATOR, operator); }
bool fm_at_name(const fm_parser *p, const char *name) { return token_is(p->token, FM_TOKEN_NAME, name); }

bool fm_skip_operator(fm_parser *p, const char *operator) {
    bool here = fm_at_operator(p, operator);
    p->token += here;
    return here;
}

bool fm_skip_name(fm_parser *p, const char *name) {
    bool here = fm_at_name(p, name);
    p->token += here;
    return here;
}

void fm_unexpected(fm_parser *p) {
    const fm_token *token = p->token;
    p->run->line = token->line;
    switch (token->kind) {
    case FM_TOKEN_END: fm_refuse(p->run, FM_EFORMAT, "unexpected end of the template");
    case FM_TOKEN_CLOSE_VARIABLE: fm_refuse(p->run, FM_EFORMAT, "unexpected end of a print statement");
    case FM_TOKEN_CLOSE_BLOCK: fm_refuse(p->run, FM_EFORMAT, "unexpected end of a statement block");
    default: fm_refuse(p->run, FM_EFORMAT, "unexpected '%.*s'", token->bytes < 100 ? (int)token->bytes : 100, token->text);
    }
}

void fm_expect_operator(fm_parser *p, const char *operator) {
    if (!fm_skip_operator(p, operator)) fm_unexpected(p);
}

const fm_text *fm_expect_name(fm_parser *p) {
    if (p->token->kind != FM_TOKEN_NAME) fm_unexpected(p);
    const fm_token *token = p->token++;
    return intern(p, token->text, token->bytes);
}

void fm_deeper(fm_parser *p) {
    if (++p->nesting > MAX_NESTING) fm_refuse(p->run, FM_EFULL, "nested more than %d deep", MAX_NESTING);
    p->run->line = p->token->line;
}

/* ---- statements */

static fm_node *parse_body(fm_parser *p, const char *const *ends);

static void expect_close(fm_parser *p) {
    if (p->token->kind != FM_TOKEN_CLOSE_BLOCK) fm_unexpected(p);
    p->token++;
}

/* The body of a block from the end of its tag to one of ends, whose name is then the current token. */
static fm_node *parse_block(fm_parser *p, const char *const *ends) {
    fm_skip_operator(p, ":");
    expect_close(p);
    return parse_body(p, ends);
}

static fm_node *parse_block_to(fm_parser *p, const char *end) {
    const char *const ends[] = {end, NULL};
    fm_node *body = parse_block(p, ends);
    p->token++;
    return body;
}

/* The same in a scope of its own, where an unknown filter is refused at once. */
static fm_node *parse_hard_block_to(fm_parser *p, const char *end) {
    bool soft = p->soft;
    p->soft = false;
    fm_node *body = parse_block_to(p, end);
    p->soft = soft;
    return body;
}

static void check_target(fm_parser *p, const fm_node *target) {
    if (target->kind == FM_NODE_TUPLE || target->kind == FM_NODE_LIST) {
        if (target->kind == FM_NODE_LIST) fm_refuse(p->run, FM_EFORMAT, "can't assign to 'list'");
        for (size_t i = 0; i < target->n; i++) check_target(p, target->items[i]);
        return;
    }
    if (target->kind != FM_NODE_NAME && target->kind != FM_NODE_MEMBER) fm_refuse(p->run, FM_EFORMAT, "can't assign to this expression");
    if (target->kind == FM_NODE_NAME && p->loops && fm_text_is(target->name, "loop")) {
        fm_refuse(p->run, FM_EFORMAT, "can't assign to special loop variable in for-loop target");
    }
}

static fm_node *parse_target(fm_parser *p, int style) {
    fm_node *loop = p->loop, *target;
    p->run->line = p->token->line;
    p->loop = NULL; /* a target does not use it */
    target = fm_parse_tuple(p, FM_TUPLE_TARGET | style);
    p->loop = loop;
    check_target(p, target);
    return target;
}

static fm_node *parse_set(fm_parser *p, int line) {
    fm_node *node = fm_node_new(p, FM_NODE_SET, line);
    node->a = parse_target(p, FM_TUPLE_MEMBERS);
    if (fm_skip_operator(p, "=")) {
        node->b = fm_parse_tuple(p, 0);
        return node;
    }
    node->kind = FM_NODE_SET_BLOCK;
    bool soft = p->soft;
    p->soft = false;
    node->b = fm_parse_filters(p, NULL, false);
    p->soft = soft;
    node->body = parse_hard_block_to(p, "endset");
    return node;
}

static fm_node *parse_for(fm_parser *p, int line) {
    static const char *const ends[] = {"endfor", "else", NULL};
    fm_node *node = fm_node_new(p, FM_NODE_FOR, line), *outer = p->loop;
    bool soft = p->soft;
    p->loops++;
    node->a = parse_target(p, 0);
    p->loops--;
    if (!fm_skip_name(p, "in")) fm_unexpected(p);
    node->b = fm_parse_tuple(p, FM_TUPLE_NO_CONDITION);
    p->soft = false;
    if (fm_skip_name(p, "if")) node->c = fm_parse_expression(p);
    node->flag = fm_skip_name(p, "recursive");
    p->loops++;
    p->loop = node;
    node->body = parse_block(p, ends);
    p->loops--;
    p->loop = outer;
    if (fm_skip_name(p, "else")) {
        node->other = parse_block_to(p, "endfor");
    } else {
        p->token++;
    }
    p->soft = soft;
    return node;
}

static fm_node *parse_if(fm_parser *p, int line) {
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    fm_node *node = fm_node_new(p, FM_NODE_IF, line);
    bool soft = p->soft;
    p->soft = true;
    do {
        fm_node_add(p, node, fm_parse_tuple(p, FM_TUPLE_NO_CONDITION));
        fm_node_add(p, node, parse_block(p, ends));
    } while (fm_skip_name(p, "elif"));
    if (fm_skip_name(p, "else")) {
        fm_node_add(p, node, parse_block_to(p, "endif"));
    } else {
        p->token++;
    }
    p->soft = soft;
    return node;
}

/* The parameters of a macro or call block: names, and items for the defaults of the last of them. */
static void parse_signature(fm_parser *p, fm_node *macro) {
    size_t cap = 0;
    fm_expect_operator(p, "(");
    while (!fm_at_operator(p, ")")) {
        if (macro->n_names) fm_expect_operator(p, ",");
        if (macro->n_names == cap) {
            cap = cap ? 2 * cap : 4;
            macro->names = fm_take_more(p->run, macro->names, macro->n_names * sizeof *macro->names, cap * sizeof *macro->names);
        }
        macro->names[macro->n_names++] = fm_expect_name(p);
        for (size_t i = 0; i + 1 < macro->n_names; i++) {
            fm_charge(p->run, 0);
            if (macro->names[i] == macro->names[macro->n_names - 1]) fm_refuse(p->run, FM_EFORMAT, "duplicate argument in a macro");
        }
        if (fm_skip_operator(p, "=")) {
            fm_node_add(p, macro, fm_parse_expression(p));
        } else if (macro->n) {
            fm_refuse(p->run, FM_EFORMAT, "non-default argument follows default argument");
        }
    }
    fm_expect_operator(p, ")");
}

/* The body of a macro: loops around it do not count, and it notes what it uses of caller, varargs and kwargs. */
static void parse_macro_body(fm_parser *p, fm_node *macro, const char *end) {
    fm_node *outer = p->macro;
    int loops = p->loops;
    p->loops = 0;
    p->macro = macro;
    macro->body = parse_hard_block_to(p, end);
    p->macro = outer;
    p->loops = loops;
    if (outer) { /* what a macro within it uses, it uses too */
        outer->caller |= macro->caller;
        outer->varargs |= macro->varargs;
        outer->kwargs |= macro->kwargs;
    }
    for (size_t i = 0; i < macro->n_names; i++) {
        bool has_default = i + macro->n >= macro->n_names;
        if (fm_text_is(macro->names[i], "caller")) {
            if (macro->caller && !has_default) fm_refuse(p->run, FM_EFORMAT, "the special \"caller\" argument must be omitted or be given a default");
            macro->caller = false;
        }
        macro->varargs &= !fm_text_is(macro->names[i], "varargs");
        macro->kwargs &= !fm_text_is(macro->names[i], "kwargs");
    }
}

static fm_node *parse_macro(fm_parser *p, int line) {
    fm_node *node = fm_node_new(p, FM_NODE_MACRO, line);
    node->name = fm_expect_name(p);
    parse_signature(p, node);
    parse_macro_body(p, node, "endmacro");
    return node;
}

static fm_node *parse_call_block(fm_parser *p, int line) {
    fm_node *node = fm_node_new(p, FM_NODE_CALL_BLOCK, line);
    node->b = fm_node_new(p, FM_NODE_MACRO, line);
    if (fm_at_operator(p, "(")) parse_signature(p, node->b);
    node->a = fm_parse_expression(p);
    if (node->a->kind != FM_NODE_CALL) fm_refuse(p->run, FM_EFORMAT, "expected call");
    parse_macro_body(p, node->b, "endcall");
    return node;
}

static fm_node *parse_with(fm_parser *p, int line) {
    fm_node *node = fm_node_new(p, FM_NODE_WITH, line);
    while (p->token->kind != FM_TOKEN_CLOSE_BLOCK) {
        if (node->n) fm_expect_operator(p, ",");
        fm_node_add(p, node, parse_target(p, 0));
        fm_expect_operator(p, "=");
        fm_node_add(p, node, fm_parse_expression(p));
    }
    node->body = parse_hard_block_to(p, "endwith");
    return node;
}

static fm_node *parse_print(fm_parser *p, int line) {
    fm_node *node = fm_node_new(p, FM_NODE_BODY, line);
    while (p->token->kind != FM_TOKEN_CLOSE_BLOCK) {
        if (node->n) fm_expect_operator(p, ",");
        fm_node *output = fm_node_new(p, FM_NODE_OUTPUT, line);
        output->a = fm_parse_expression(p);
        fm_node_add(p, node, output);
    }
    return node;
}

static fm_node *parse_simple(fm_parser *p, int line, const fm_text *name) {
    fm_node *node;
    if (fm_text_is(name, "filter")) {
        node = fm_node_new(p, FM_NODE_FILTER_BLOCK, line);
        bool soft = p->soft;
        p->soft = false;
        node->a = fm_parse_filters(p, NULL, true);
        p->soft = soft;
        node->body = parse_hard_block_to(p, "endfilter");
        return node;
    }
    if (fm_text_is(name, "generation")) { /* transformers': a call block whose text is only printed here */
        node = fm_node_new(p, FM_NODE_CALL_BLOCK, line);
        node->b = fm_node_new(p, FM_NODE_MACRO, line);
        parse_macro_body(p, node->b, "endgeneration");
        return node;
    }
    if (fm_text_is(name, "break") || fm_text_is(name, "continue")) {
        if (!p->loops) fm_refuse(p->run, FM_EFORMAT, "'%.*s' outside loop", (int)name->bytes, name->data);
        return fm_node_new(p, fm_text_is(name, "break") ? FM_NODE_BREAK : FM_NODE_CONTINUE, line);
    }
    static const char *const known[] = {"include", "import", "from", "extends", "block", "autoescape"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (fm_text_is(name, known[i])) fm_refuse(p->run, FM_EUNSUPPORTED, "the tag '%s' is not supported", known[i]);
    }
    fm_refuse(p->run, FM_EUNSUPPORTED, "encountered unknown tag '%.*s'", name->bytes < 100 ? (int)name->bytes : 100, name->data);
}

static fm_node *parse_statement(fm_parser *p) {
    int line = p->token->line;
    p->run->line = line;
    const fm_text *name = fm_expect_name(p);
    if (fm_text_is(name, "set")) return parse_set(p, line);
    if (fm_text_is(name, "for")) return parse_for(p, line);
    if (fm_text_is(name, "if")) return parse_if(p, line);
    if (fm_text_is(name, "macro")) return parse_macro(p, line);
    if (fm_text_is(name, "call")) return parse_call_block(p, line);
    if (fm_text_is(name, "with")) return parse_with(p, line);
    if (fm_text_is(name, "print")) return parse_print(p, line);
    return parse_simple(p, line, name);
}

static fm_node *parse_body(fm_parser *p, const char *const *ends) {
    fm_node *body = fm_node_new(p, FM_NODE_BODY, p->token->line), *node;
    fm_deeper(p);
    for (; p->token->kind != FM_TOKEN_END; fm_node_add(p, body, node)) {
        const fm_token *token = p->token++;
        if (token->kind == FM_TOKEN_DATA) {
            node = fm_node_new(p, FM_NODE_DATA, token->line);
            node->value = fm_string(fm_text_borrow(p->run, token->text, token->bytes));
        } else if (token->kind == FM_TOKEN_OPEN_VARIABLE) {
            node = fm_node_new(p, FM_NODE_OUTPUT, token->line);
            node->a = fm_parse_tuple(p, 0);
            if (p->token->kind != FM_TOKEN_CLOSE_VARIABLE) fm_unexpected(p);
            p->token++;
        } else {
            p->nesting--;
            for (const char *const *end = ends; end && *end; end++) {
                if (fm_at_name(p, *end)) return body;
            }
            p->nesting++;
            node = parse_statement(p);
            expect_close(p);
        }
    }
    p->nesting--;
    p->run->line = p->token->line;
    if (ends) fm_refuse(p->run, FM_EFORMAT, "unexpected end of the template, looking for '%s' or the like", ends[0]);
    return body;
}

void fm_parse(fm_run *run, fm_tree *tree, const char *source, size_t bytes) {
    fm_parser p = {.run = run, .token = fm_lex(run, source, bytes), .names = fm_dict_new(run)};
    tree->body = parse_body(&p, NULL);
    tree->names = p.names;
    if (p.n_unknown) {
        const fm_node *node = p.unknown[0];
        run->line = node->line;
        fm_refuse(run, FM_EUNSUPPORTED, "no %s named '%.*s'", node->kind == FM_NODE_FILTER ? "filter" : "test",
                  node->name->bytes < 100 ? (int)node->name->bytes : 100, node->name->data);
    }
}
