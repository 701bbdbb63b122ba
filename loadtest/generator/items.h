/* The results of a batch, read from its answer as it comes and never held: `{"created": n, …, "results": [{…}, …]}` for an
 * array, a line for each item and `{"summary": {"created": n, …, "complete": true}}` for a stream. */

enum item_status { CREATED, DUPLICATE, INVALID, RETRY, UNKNOWN, ITEM_STATUSES };
enum { ITEMS_MAX = 10000, NAME_KEPT = 16, TOKEN_KEPT = 40 }; /* 40: an integer or a UUID; what is longer is neither */

struct items {
    const char *keys;              /* that were sent, UUID_SIZE each; NULL where the service gives integer ids */
    uint64_t seen[ITEM_STATUSES];  /* in the results */
    uint64_t said[ITEM_STATUSES];  /* in the counts */
    uint64_t results;
    bool wrong;                    /* an unknown status, another key or line than was due, created without an id */
    bool complete, incomplete;     /* what the last line of a stream says */
    bool quoted, escaped, text;    /* within a string; behind a backslash; the token was a string */
    int8_t status;                 /* of the result at hand, -1 before it is known */
    uint8_t name_length, token_length, id_length;
    char name[NAME_KEPT], token[TOKEN_KEPT], id[TOKEN_KEPT];
};

static void expect_items(struct items *items) {
    const char *keys = items->keys;
    memset(items, 0, sizeof *items);
    items->keys = keys;
    items->status = -1;
}

static int status_named(const char *name, size_t length) {
    static const char *const names[] = {"created", "duplicate", "invalid", "retry", "unknown"};
    for (int status = 0; status < ITEM_STATUSES; status++)
        if (length == strlen(names[status]) && !memcmp(name, names[status], length)) return status;
    return -1;
}

static bool token_number(const struct items *items, uint64_t *number) {
    const char *end = items->token + items->token_length;
    return !items->text && read_number(items->token, end, 10, number);
}

static bool named(const struct items *items, const char *name) {
    return items->name_length == strlen(name) && !memcmp(items->name, name, items->name_length);
}

/* A member of an object has ended; only some names mean anything here. */
static void end_member(struct items *items) {
    uint64_t number;
    int status;
    if (!items->name_length) return;
    if (named(items, "status")) {
        if (items->text && (items->status = (int8_t)status_named(items->token, items->token_length)) < 0)
            items->wrong = true; /* a number is the status of a problem, which is no result */
    } else if (named(items, "id")) {
        memcpy(items->id, items->token, items->token_length);
        items->id_length = items->text == !!items->keys ? items->token_length : 0;
    } else if (named(items, "line")) {
        if (!token_number(items, &number) || number != items->results + 1) items->wrong = true;
    } else if (named(items, "complete")) {
        items->complete = items->token_length == 4 && !memcmp(items->token, "true", 4);
        items->incomplete = !items->complete;
    } else if ((status = status_named(items->name, items->name_length)) >= 0) {
        if (token_number(items, &number)) items->said[status] = number;
        else items->wrong = true;
    }
}

/* An object has ended; it was a result when it had a status. */
static void end_object(struct items *items) {
    if (items->status >= 0) {
        uint64_t at = items->results++, id;
        items->seen[items->status]++;
        if (at >= ITEMS_MAX) {
            items->wrong = true;
        } else if (items->status == CREATED || items->status == DUPLICATE) {
            if (items->keys) {
                const char *key = items->keys + at * UUID_SIZE;
                if (items->id_length != UUID_SIZE || memcmp(items->id, key, UUID_SIZE)) items->wrong = true;
            } else if (items->id_length && read_number(items->id, items->id + items->id_length, 10, &id)) {
                if (items->status == CREATED) note_id(id);
            } else {
                items->wrong = true;
            }
        }
    }
    items->status = -1;
    items->id_length = 0;
}

static void keep_byte(struct items *items, char byte) {
    if (items->token_length < TOKEN_KEPT) items->token[items->token_length++] = byte;
}

static void read_items(struct items *items, const char *at, size_t length) {
    for (const char *end = at + length; at < end; at++) {
        char byte = *at;
        if (items->quoted) {
            if (items->escaped) items->escaped = false, keep_byte(items, byte);
            else if (byte == '\\') items->escaped = true;
            else if (byte == '"') items->quoted = false;
            else keep_byte(items, byte);
            continue;
        }
        switch (byte) {
            case '"':
                items->quoted = items->text = true;
                items->token_length = 0;
                continue;
            case ':':
                items->name_length = items->token_length < NAME_KEPT ? items->token_length : 0;
                memcpy(items->name, items->token, items->name_length);
                break;
            case ',': case '}': case ']':
                end_member(items);
                if (byte == '}') end_object(items);
                items->name_length = 0;
                break;
            case '{': case '[': items->name_length = 0; break;
            case ' ': case '\t': case '\r': case '\n': continue;
            default: keep_byte(items, byte); continue;
        }
        items->token_length = 0;
        items->text = false;
    }
}

/* Whether so many items were each told what became of them, and the counts say the same. */
static bool items_are_right(const struct items *items, uint64_t size, bool stream) {
    if (items->wrong || memcmp(items->seen, items->said, sizeof items->seen)) return false;
    if (!stream) return items->results == size;
    return (items->complete && items->results == size) || (items->incomplete && items->results <= size);
}
