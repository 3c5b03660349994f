/* template/syntax.h: tokens and the tree that a template is parsed into. */
#ifndef FM_TEMPLATE_SYNTAX_H
#define FM_TEMPLATE_SYNTAX_H

#include "template/template.h"
#include "template/value/value.h"

typedef enum fm_token_kind {
    FM_TOKEN_END,
    FM_TOKEN_DATA,
    FM_TOKEN_OPEN_VARIABLE, /* {{ */
    FM_TOKEN_CLOSE_VARIABLE,
    FM_TOKEN_OPEN_BLOCK, /* {% */
    FM_TOKEN_CLOSE_BLOCK,
    FM_TOKEN_NAME,
    FM_TOKEN_STRING,
    FM_TOKEN_NUMBER,
    FM_TOKEN_OPERATOR,
} fm_token_kind;

typedef struct fm_token {
    fm_token_kind kind;
    int line;
    const char *text; /* of data, a name; an operator's first character decides with its second */
    size_t bytes;
    fm_value value; /* of a string or number */
} fm_token;

typedef enum fm_node_kind {
    /* expressions */
    FM_NODE_CONSTANT,
    FM_NODE_NAME,
    FM_NODE_LIST, /* items */
    FM_NODE_TUPLE,
    FM_NODE_DICT,      /* items: key, value, key, … */
    FM_NODE_ATTRIBUTE, /* a.name */
    FM_NODE_ITEM,      /* a[b] */
    FM_NODE_SLICE,     /* items: start, stop, step, NULL where left out */
    FM_NODE_CALL,      /* a(arguments) */
    FM_NODE_FILTER,    /* a | function(arguments); a NULL: the block's text */
    FM_NODE_TEST,      /* a is function(arguments) */
    FM_NODE_NOT,
    FM_NODE_NEGATIVE,
    FM_NODE_POSITIVE,
    FM_NODE_AND,
    FM_NODE_OR,
    FM_NODE_ARITHMETIC, /* a operator b */
    FM_NODE_CONCAT,     /* items */
    FM_NODE_COMPARE,    /* a operators[0] items[0] operators[1] items[1] … */
    FM_NODE_CONDITION,  /* b if a else c */
    FM_NODE_MEMBER,     /* name.value.text, as the target of a set */
    /* statements */
    FM_NODE_DATA,         /* value */
    FM_NODE_OUTPUT,       /* a */
    FM_NODE_IF,           /* items: test, body, test, body, …, [else] */
    FM_NODE_FOR,          /* a target, b sequence, c test or NULL; body, other */
    FM_NODE_SET,          /* a target, b value */
    FM_NODE_SET_BLOCK,    /* a target, b filters or NULL; body */
    FM_NODE_MACRO,        /* name, items: defaults of the last parameters; body */
    FM_NODE_CALL_BLOCK,   /* a the call, b its macro; a NULL: only the macro (`generation`) */
    FM_NODE_FILTER_BLOCK, /* a filters; body */
    FM_NODE_WITH,         /* items: target, value, …; body */
    FM_NODE_BODY,         /* items */
    FM_NODE_BREAK,
    FM_NODE_CONTINUE,
} fm_node_kind;

/* Compare operators beyond their sign. */
#define FM_LESS_EQUAL 'l'
#define FM_GREATER_EQUAL 'g'
#define FM_NOT_EQUAL '!'
#define FM_IN 'i'
#define FM_NOT_IN 'n'

/* How a variable begins where its scope does. */
typedef struct fm_load {
    enum { FM_LOAD_NOTHING, FM_LOAD_GLOBAL, FM_LOAD_OUTER } kind; /* OUTER: as the variable of this name around it */
    uint32_t slot;                                                /* in its function's frame */
    uint32_t up, from;                                            /* GLOBAL: from that number; OUTER: slot `from` of the function `up` levels out */
} fm_load;

/* The variables of a loop's body, a block, a function. A function (the template, a macro, a recursive loop) has the slots of all scopes within it in one frame, as Python has
 * locals: a variable's place is known before anything runs. */
typedef struct fm_scope {
    fm_load *loads;
    size_t n_loads;
    uint32_t *slots; /* of its own variables: they are gone where it ends */
    size_t n_slots;
    uint32_t frame_slots;                   /* of a function */
    uint32_t *parameters;                   /* of a macro */
    uint32_t caller, varargs, kwargs, loop; /* slots of what a macro or loop declares */
} fm_scope;

typedef struct fm_node fm_node;
struct fm_node {
    fm_node_kind kind;
    int line;
    int depth; /* 1 + that of its deepest part */
    char operator;
    char *operators;
    bool flag;                    /* FOR: recursive */
    bool caller, varargs, kwargs; /* MACRO: which it uses; FOR: caller says that `loop` is used */
    const fm_text *name;
    fm_value value;        /* NAME: the undefined value that it is if it has none */
    uint32_t up, slot;     /* NAME, MEMBER, MACRO: where the variable is */
    const fm_scope *scope; /* BODY: of what it is the body of, if that has one; FOR: of its filter */
    fm_node *a, *b, *c, *body, *other;
    fm_node **items;
    size_t n, cap;
    const fm_text **names; /* of keyword arguments, or a macro's parameters */
    size_t n_names;
    fm_node **named;             /* values of keyword arguments */
    fm_node *star, *star_star;   /* *args, **kwargs */
    const fm_function *function; /* of a filter or test; NULL: unknown, refused when it runs */
};

/* All tokens of source, which ends with FM_TOKEN_END. Their text points into a copy in the arena. */
fm_token *fm_lex(fm_run *run, const char *source, size_t bytes);

typedef struct fm_parser {
    fm_run *run;
    fm_token *token;
    fm_dict *names; /* one fm_text for each name: scopes compare pointers */
    int nesting;
    int loops;         /* around this place, within its macro */
    bool soft;         /* an unknown filter is refused only when it runs, as jinja2 has it right within an if */
    fm_node **unknown; /* nodes of unknown filters and tests outside of soft places */
    size_t n_unknown, cap_unknown;
    fm_node *macro; /* around this place, or NULL */
    fm_node *loop;
} fm_parser;

/* What rendering needs of a template: nothing of it changes any more. */
typedef struct fm_tree {
    fm_node *body;
    fm_dict *names;          /* one fm_text for each name: scopes compare pointers */
    const fm_text **globals; /* names that are looked up in the variables, 0-terminated */
    size_t n_globals;
} fm_tree;

/* scopes.c: gives every name of the tree its place, by jinja2's rules, and every node its depth. */
void fm_resolve(fm_run *run, fm_tree *tree);

/* parser.c: sets body and names of tree. */
void fm_parse(fm_run *run, fm_tree *tree, const char *source, size_t bytes);
fm_node *fm_node_new(fm_parser *parser, fm_node_kind kind, int line);
void fm_node_add(fm_parser *parser, fm_node *node, fm_node *item);        /* item may be NULL */
void fm_node_part(fm_parser *parser, fm_node *node, const fm_node *part); /* depth; refuses what is too deep */
bool fm_at_operator(const fm_parser *parser, const char *operator);
bool fm_at_name(const fm_parser *parser, const char *name);
bool fm_skip_operator(fm_parser *parser, const char *operator);
bool fm_skip_name(fm_parser *parser, const char *name);
void fm_expect_operator(fm_parser *parser, const char *operator);
const fm_text *fm_expect_name(fm_parser *parser);
__attribute__((noreturn)) void fm_unexpected(fm_parser *parser);
void fm_deeper(fm_parser *parser);

/* expressions.c */
typedef enum fm_tuple_style {
    FM_TUPLE_PLAIN = 0,
    FM_TUPLE_TARGET = 1,       /* names and literals only */
    FM_TUPLE_NO_CONDITION = 2, /* no inline if */
    FM_TUPLE_PARENTHESES = 4,
    FM_TUPLE_MEMBERS = 8, /* namespace.attribute is a target */
} fm_tuple_style;
fm_node *fm_parse_expression(fm_parser *parser);
/* As in jinja2, `in` and `recursive` behind a comma do not end it. */
fm_node *fm_parse_tuple(fm_parser *parser, int style);
/* | filter | filter … of node (NULL: of a block), the first without its bar if `begun`. */
fm_node *fm_parse_filters(fm_parser *parser, fm_node *node, bool begun);

#endif
