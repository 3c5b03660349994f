/* template/expressions.c: parses expressions, in jinja2's order of precedence. See syntax.h. */
#include <string.h>

#include "template/library/library.h"
#include "template/syntax.h"

static fm_node *parse_or(fm_parser *p);
static fm_node *parse_unary(fm_parser *p, bool filters);

static fm_node *two(fm_parser *p, fm_node_kind kind, int line, fm_node *a, fm_node *b) {
    fm_node *node = fm_node_new(p, kind, line);
    node->a = a;
    node->b = b;
    if (a) fm_node_part(p, node, a);
    if (b) fm_node_part(p, node, b);
    return node;
}

static fm_node *constant(fm_parser *p, int line, fm_value value) {
    fm_node *node = fm_node_new(p, FM_NODE_CONSTANT, line);
    node->value = value;
    return node;
}

/* What was unknown since mark stands in an inline if: it is refused only when it runs. */
static void soften(fm_parser *p, size_t mark) { p->n_unknown = mark; }

fm_node *fm_parse_expression(fm_parser *p) {
    size_t mark = p->n_unknown;
    int line = p->token->line;
    fm_deeper(p);
    fm_node *node = parse_or(p);
    while (fm_skip_name(p, "if")) {
        fm_node *test = parse_or(p);
        fm_node *condition = two(p, FM_NODE_CONDITION, line, test, node);
        if (fm_skip_name(p, "else")) {
            condition->c = fm_parse_expression(p);
            fm_node_part(p, condition, condition->c);
        }
        soften(p, mark);
        node = condition;
        line = p->token->line;
    }
    p->nesting--;
    return node;
}

static fm_node *parse_not(fm_parser *p);

static fm_node *parse_and(fm_parser *p) {
    fm_node *left = parse_not(p);
    for (int line = p->token->line; fm_skip_name(p, "and"); line = p->token->line) left = two(p, FM_NODE_AND, line, left, parse_not(p));
    return left;
}

static fm_node *parse_or(fm_parser *p) {
    fm_node *left = parse_and(p);
    for (int line = p->token->line; fm_skip_name(p, "or"); line = p->token->line) left = two(p, FM_NODE_OR, line, left, parse_and(p));
    return left;
}

/* left-associative operators, one character each in `operators`, over operands of `next` */
static fm_node *parse_chain(fm_parser *p, const char *const *operators, const char *codes, fm_node *(*next)(fm_parser *)) {
    fm_node *left = next(p);
    for (;;) {
        int line = p->token->line;
        size_t i = 0;
        while (operators[i] && !fm_skip_operator(p, operators[i])) i++;
        if (!operators[i]) return left;
        left = two(p, FM_NODE_ARITHMETIC, line, left, next(p));
        left->operator= codes[i];
    }
}

static fm_node *parse_operand(fm_parser *p) { return parse_unary(p, true); }

static fm_node *parse_power(fm_parser *p) {
    static const char *const operators[] = {"**", NULL};
    return parse_chain(p, operators, "^", parse_operand);
}

static fm_node *parse_product(fm_parser *p) {
    static const char *const operators[] = {"*", "/", "//", "%", NULL};
    return parse_chain(p, operators, "*/i%", parse_power);
}

static fm_node *parse_concat(fm_parser *p) {
    int line = p->token->line;
    fm_node *first = parse_product(p), *node = NULL;
    while (fm_skip_operator(p, "~")) {
        if (!node) {
            node = fm_node_new(p, FM_NODE_CONCAT, line);
            fm_node_add(p, node, first);
        }
        fm_node_add(p, node, parse_product(p));
    }
    return node ? node : first;
}

static fm_node *parse_sum(fm_parser *p) {
    static const char *const operators[] = {"+", "-", NULL};
    return parse_chain(p, operators, "+-", parse_concat);
}

/* The comparing operator that stands here, taken; 0: none. */
static char comparing(fm_parser *p) {
    static const char *const operators[] = {"==", "!=", ">", ">=", "<", "<="};
    for (int i = 0; i < 6; i++) {
        if (fm_skip_operator(p, operators[i])) return "=!>g<l"[i];
    }
    if (fm_skip_name(p, "in")) return FM_IN;
    const fm_token *next = p->token + 1;
    if (fm_at_name(p, "not") && next->kind == FM_TOKEN_NAME && next->bytes == 2 && memcmp(next->text, "in", 2) == 0) {
        p->token += 2;
        return FM_NOT_IN;
    }
    return 0;
}

static fm_node *parse_compare(fm_parser *p) {
    int line = p->token->line;
    fm_node *first = parse_sum(p), *node = NULL;
    for (char c; (c = comparing(p));) {
        if (!node) node = two(p, FM_NODE_COMPARE, line, first, NULL);
        if (!(node->n & (node->n - 1)) || !node->n) node->operators = fm_take_more(p->run, node->operators, node->n, node->n ? 2 * node->n : 1);
        node->operators[node->n] = c;
        fm_node_add(p, node, parse_sum(p));
    }
    return node ? node : first;
}

static fm_node *parse_not(fm_parser *p) {
    int line = p->token->line;
    if (!fm_skip_name(p, "not")) return parse_compare(p);
    fm_deeper(p);
    fm_node *node = two(p, FM_NODE_NOT, line, parse_not(p), NULL);
    p->nesting--;
    return node;
}

/* ---- primaries */

static fm_node *parse_list(fm_parser *p) {
    fm_node *node = fm_node_new(p, FM_NODE_LIST, p->token->line);
    fm_expect_operator(p, "[");
    while (!fm_at_operator(p, "]")) {
        if (node->n) fm_expect_operator(p, ",");
        if (fm_at_operator(p, "]")) break;
        fm_node_add(p, node, fm_parse_expression(p));
    }
    fm_expect_operator(p, "]");
    return node;
}

static fm_node *parse_dict(fm_parser *p) {
    fm_node *node = fm_node_new(p, FM_NODE_DICT, p->token->line);
    fm_expect_operator(p, "{");
    while (!fm_at_operator(p, "}")) {
        if (node->n) fm_expect_operator(p, ",");
        if (fm_at_operator(p, "}")) break;
        fm_node_add(p, node, fm_parse_expression(p));
        fm_expect_operator(p, ":");
        fm_node_add(p, node, fm_parse_expression(p));
    }
    fm_expect_operator(p, "}");
    return node;
}

static fm_node *parse_name(fm_parser *p, bool members) {
    int line = p->token->line;
    const fm_text *name = fm_expect_name(p);
    if (fm_text_is(name, "true") || fm_text_is(name, "True")) return constant(p, line, fm_bool(true));
    if (fm_text_is(name, "false") || fm_text_is(name, "False")) return constant(p, line, fm_bool(false));
    if (fm_text_is(name, "none") || fm_text_is(name, "None")) return constant(p, line, fm_none());
    fm_node *node = fm_node_new(p, FM_NODE_NAME, line);
    node->name = name;
    if (members && fm_skip_operator(p, ".")) {
        node->kind = FM_NODE_MEMBER;
        node->value = fm_string(fm_expect_name(p));
    } else if (p->loop && fm_text_is(name, "loop")) {
        p->loop->caller = true;
    }
    if (p->macro) {
        p->macro->caller |= fm_text_is(name, "caller");
        p->macro->varargs |= fm_text_is(name, "varargs");
        p->macro->kwargs |= fm_text_is(name, "kwargs");
    }
    return node;
}

static fm_node *parse_number(fm_parser *p) {
    const fm_token *token = p->token++;
    return constant(p, token->line, token->value);
}

static fm_node *parse_strings(fm_parser *p) {
    int line = p->token->line;
    const fm_text *text = p->token->value.text;
    for (p->token++; p->token->kind == FM_TOKEN_STRING; p->token++) text = fm_concat(p->run, text, p->token->value.text);
    return constant(p, line, fm_string(fm_text_borrow(p->run, text->data, text->bytes))); /* not its buffer: no rendering may append to it */
}

static fm_node *parse_primary(fm_parser *p, bool members) {
    fm_node *node;
    switch (p->token->kind) {
    case FM_TOKEN_NAME: return parse_name(p, members);
    case FM_TOKEN_STRING: return parse_strings(p);
    case FM_TOKEN_NUMBER: return parse_number(p);
    default: break;
    }
    fm_deeper(p);
    if (fm_skip_operator(p, "(")) {
        node = fm_parse_tuple(p, FM_TUPLE_PARENTHESES);
        fm_expect_operator(p, ")");
    } else if (fm_at_operator(p, "[")) {
        node = parse_list(p);
    } else if (fm_at_operator(p, "{")) {
        node = parse_dict(p);
    } else {
        fm_unexpected(p);
    }
    p->nesting--;
    return node;
}

fm_node *fm_parse_tuple(fm_parser *p, int style) {
    int line = p->token->line;
    fm_node *first = NULL, *tuple = NULL;
    while (true) {
        if (first) fm_expect_operator(p, ",");
        fm_token_kind kind = p->token->kind;
        if (kind == FM_TOKEN_CLOSE_VARIABLE || kind == FM_TOKEN_CLOSE_BLOCK || fm_at_operator(p, ")")) break;
        fm_node *item = style & FM_TUPLE_TARGET         ? parse_primary(p, style & FM_TUPLE_MEMBERS)
                        : style & FM_TUPLE_NO_CONDITION ? parse_or(p)
                                                        : fm_parse_expression(p);
        if (tuple) fm_node_add(p, tuple, item);
        if (!first) first = item;
        if (!fm_at_operator(p, ",")) break;
        if (!tuple) {
            tuple = fm_node_new(p, FM_NODE_TUPLE, line);
            fm_node_add(p, tuple, first);
        }
    }
    if (tuple || first) return tuple ? tuple : first;
    if (!(style & FM_TUPLE_PARENTHESES)) fm_unexpected(p);
    return fm_node_new(p, FM_NODE_TUPLE, line);
}

/* ---- postfix */

static fm_node *parse_subscribed(fm_parser *p) {
    int line = p->token->line;
    fm_node *first = NULL, *slice;
    if (!fm_at_operator(p, ":")) {
        first = fm_parse_expression(p);
        if (!fm_at_operator(p, ":")) return first;
    }
    fm_expect_operator(p, ":");
    slice = fm_node_new(p, FM_NODE_SLICE, line);
    fm_node_add(p, slice, first);
    bool none = fm_at_operator(p, ":") || fm_at_operator(p, "]") || fm_at_operator(p, ",");
    fm_node_add(p, slice, none ? NULL : fm_parse_expression(p));
    bool more = fm_skip_operator(p, ":");
    none = !more || fm_at_operator(p, "]") || fm_at_operator(p, ",");
    fm_node_add(p, slice, none ? NULL : fm_parse_expression(p));
    return slice;
}

static fm_node *parse_subscript(fm_parser *p, fm_node *of) {
    int line = p->token->line;
    if (fm_skip_operator(p, ".")) {
        if (p->token->kind == FM_TOKEN_NAME) {
            fm_node *node = two(p, FM_NODE_ATTRIBUTE, line, of, NULL);
            node->name = fm_expect_name(p);
            return node;
        }
        if (p->token->kind != FM_TOKEN_NUMBER || p->token->value.type != FM_INT) fm_refuse(p->run, FM_EFORMAT, "expected name or number");
        return two(p, FM_NODE_ITEM, line, of, parse_number(p));
    }
    fm_expect_operator(p, "[");
    fm_node *first = NULL, *tuple = NULL;
    while (!fm_at_operator(p, "]")) {
        if (first) fm_expect_operator(p, ",");
        fm_node *item = parse_subscribed(p);
        if (first && !tuple) {
            tuple = fm_node_new(p, FM_NODE_TUPLE, line);
            fm_node_add(p, tuple, first);
        }
        if (tuple) fm_node_add(p, tuple, item);
        if (!first) first = item;
    }
    fm_expect_operator(p, "]");
    if (!first) first = fm_node_new(p, FM_NODE_TUPLE, line);
    return two(p, FM_NODE_ITEM, line, of, tuple ? tuple : first);
}

static void add_named(fm_parser *p, fm_node *node, const fm_text *name, fm_node *value) {
    if (!(node->n_names & (node->n_names - 1))) {
        size_t cap = node->n_names ? 2 * node->n_names : 1;
        node->names = fm_take_more(p->run, node->names, node->n_names * sizeof *node->names, cap * sizeof *node->names);
        node->named = fm_take_more(p->run, node->named, node->n_names * sizeof *node->named, cap * sizeof *node->named);
    }
    for (size_t i = 0; i < node->n_names; i++) {
        fm_charge(p->run, 0);
        if (node->names[i] == name) fm_refuse(p->run, FM_EFORMAT, "keyword argument repeated: %.*s", (int)name->bytes, name->data);
    }
    node->names[node->n_names] = name;
    node->named[node->n_names++] = value;
    fm_node_part(p, node, value);
}

/* Items, names and named of node: what stands in the parentheses. */
static void parse_arguments(fm_parser *p, fm_node *node) {
    bool more = false;
    fm_expect_operator(p, "(");
    while (!fm_at_operator(p, ")")) {
        if (more) {
            fm_expect_operator(p, ",");
            if (fm_at_operator(p, ")")) break;
        }
        more = true;
        p->run->line = p->token->line;
        const fm_token *next = p->token + 1;
        bool named = p->token->kind == FM_TOKEN_NAME && next->kind == FM_TOKEN_OPERATOR && next->bytes == 1 && *next->text == '=';
        bool star = fm_at_operator(p, "*"), star_star = fm_at_operator(p, "**");
        if (node->star_star || (node->star && !named && !star_star) || (!named && !star && !star_star && node->n_names)) {
            fm_refuse(p->run, FM_EFORMAT, "invalid syntax for function call expression");
        }
        if (star || star_star) {
            p->token++;
            fm_node **to = star ? &node->star : &node->star_star;
            *to = fm_parse_expression(p);
            fm_node_part(p, node, *to);
        } else if (named) {
            const fm_text *name = fm_expect_name(p);
            p->token++;
            add_named(p, node, name, fm_parse_expression(p));
        } else {
            fm_node_add(p, node, fm_parse_expression(p));
        }
    }
    fm_expect_operator(p, ")");
}

static fm_node *parse_call(fm_parser *p, fm_node *callee) {
    fm_node *node = two(p, FM_NODE_CALL, p->token->line, callee, NULL);
    parse_arguments(p, node);
    return node;
}

static fm_node *parse_postfix(fm_parser *p, fm_node *node) {
    while (true) {
        if (fm_at_operator(p, ".") || fm_at_operator(p, "[")) {
            node = parse_subscript(p, node);
        } else if (fm_at_operator(p, "(")) {
            node = parse_call(p, node);
        } else {
            return node;
        }
    }
}

/* Names of filters and tests may have dots. */
static const fm_text *dotted_name(fm_parser *p) {
    const fm_text *name = fm_expect_name(p);
    while (fm_skip_operator(p, ".")) { name = fm_concat(p->run, fm_concat(p->run, name, fm_text_borrow(p->run, ".", 1)), fm_expect_name(p)); }
    return name;
}

static void note_unknown(fm_parser *p, fm_node *node) {
    if (node->function || p->soft) return;
    if (p->n_unknown == p->cap_unknown) {
        size_t cap = p->cap_unknown ? 2 * p->cap_unknown : 8;
        p->unknown = fm_take_more(p->run, p->unknown, p->n_unknown * sizeof *p->unknown, cap * sizeof *p->unknown);
        p->cap_unknown = cap;
    }
    p->unknown[p->n_unknown++] = node;
}

fm_node *fm_parse_filters(fm_parser *p, fm_node *node, bool begun) {
    while (begun || fm_skip_operator(p, "|")) {
        begun = false;
        fm_node *filter = two(p, FM_NODE_FILTER, p->token->line, node, NULL);
        filter->name = dotted_name(p);
        filter->function = fm_filter(filter->name);
        if (fm_at_operator(p, "(")) parse_arguments(p, filter);
        note_unknown(p, filter);
        node = filter;
    }
    return node;
}

static fm_node *parse_test(fm_parser *p, fm_node *of) {
    int line = p->token->line;
    p->token++;
    bool negated = fm_skip_name(p, "not");
    fm_node *node = two(p, FM_NODE_TEST, line, of, NULL);
    node->name = dotted_name(p);
    node->function = fm_test(node->name);
    fm_token_kind kind = p->token->kind;
    if (fm_at_operator(p, "(")) {
        parse_arguments(p, node);
    } else if ((kind == FM_TOKEN_NAME || kind == FM_TOKEN_STRING || kind == FM_TOKEN_NUMBER || fm_at_operator(p, "[") || fm_at_operator(p, "{")) &&
               !fm_at_name(p, "else") && !fm_at_name(p, "or") && !fm_at_name(p, "and")) {
        if (fm_at_name(p, "is")) fm_refuse(p->run, FM_EFORMAT, "you cannot chain multiple tests with is");
        fm_node_add(p, node, parse_postfix(p, parse_primary(p, false)));
    }
    note_unknown(p, node);
    return negated ? two(p, FM_NODE_NOT, line, node, NULL) : node;
}

static fm_node *parse_unary(fm_parser *p, bool filters) {
    int line = p->token->line;
    fm_node *node;
    if (fm_at_operator(p, "-") || fm_at_operator(p, "+")) {
        bool negative = fm_at_operator(p, "-");
        fm_deeper(p);
        p->token++;
        node = two(p, negative ? FM_NODE_NEGATIVE : FM_NODE_POSITIVE, line, parse_unary(p, false), NULL);
        p->nesting--;
    } else {
        node = parse_primary(p, false);
    }
    node = parse_postfix(p, node);
    while (filters) {
        if (fm_at_operator(p, "|")) {
            node = fm_parse_filters(p, node, false);
        } else if (fm_at_name(p, "is")) {
            node = parse_test(p, node);
        } else if (fm_at_operator(p, "(")) {
            node = parse_call(p, node);
        } else {
            break;
        }
    }
    return node;
}
