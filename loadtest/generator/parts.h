/* What burst.c is made of: clock, randomness, sha256, latency histogram, file of ids, parser of HTTP answers. */

#include <ctype.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

__attribute__((noreturn, format(printf, 2, 3))) static void fail(int status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("burst: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(status);
}

static void *room_for(size_t count, size_t size) {
    void *memory = calloc(count, size);
    if (!memory) fail(1, "out of memory");
    return memory;
}

/* ---- clock ---- */

static uint64_t nanoseconds(clockid_t clock) {
    struct timespec at;
    clock_gettime(clock, &at);
    return (uint64_t)at.tv_sec * 1000000000u + (uint64_t)at.tv_nsec;
}

static uint64_t now_ns(void) { return nanoseconds(CLOCK_MONOTONIC); }

/* ---- randomness: xoshiro256++, seeded by the kernel; keys must differ, nobody has to be unable to guess them ---- */

static uint64_t random_state[4];

static void seed_random(void) {
    if (getrandom(random_state, sizeof random_state, 0) != sizeof random_state) fail(1, "no random seed");
}

static uint64_t rotated(uint64_t value, int by) { return value << by | value >> (64 - by); }

static uint64_t next_random(void) {
    uint64_t *s = random_state, result = rotated(s[0] + s[3], 23) + s[0], shifted = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= shifted;
    s[3] = rotated(s[3], 45);
    return result;
}

static void write_random_text(char *at, size_t length) {
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    uint64_t left = 0;
    for (size_t i = 0; i < length; i++, left /= 62) {
        if (i % 10 == 0) left = next_random(); /* 62^10 < 2^64 */
        at[i] = alphabet[left % 62];
    }
}

static const char HEX[] = "0123456789abcdef";

enum { UUID_SIZE = 36 };

/* RFC 9562: 48 bits of Unix milliseconds, version 7, 12 random bits, variant 10, 62 random bits. */
static void write_uuid7(char *at, uint64_t unix_ms) {
    uint64_t halves[2] = {unix_ms << 16 | 0x7000 | next_random() >> 52, UINT64_C(1) << 63 | next_random() >> 2};
    for (int digit = 0; digit < 32; digit++) {
        if (digit == 8 || digit == 12 || digit == 16 || digit == 20) *at++ = '-';
        *at++ = HEX[halves[digit >> 4] >> (60 - 4 * (digit & 15)) & 15];
    }
}

/* ---- sha256 of a text that fits into one block: all that a message of 20 characters needs ---- */

enum { DIGEST_SIZE = 64 };

static const uint32_t SHA256_ROUNDS[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t turned(uint32_t value, int by) { return value >> by | value << (32 - by); }

static void write_sha256(char *at, const char *text, size_t length) {
    static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    uint32_t w[64], s[8];
    unsigned char block[64] = {0};
    memcpy(block, text, length); /* at most 55 bytes */
    block[length] = 0x80;
    block[62] = (unsigned char)(length * 8 >> 8);
    block[63] = (unsigned char)(length * 8);
    memcpy(w, block, sizeof block);
    for (int i = 0; i < 16; i++) w[i] = be32toh(w[i]);
    for (int i = 16; i < 64; i++) {
        uint32_t low = turned(w[i - 15], 7) ^ turned(w[i - 15], 18) ^ w[i - 15] >> 3;
        uint32_t high = turned(w[i - 2], 17) ^ turned(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + low + w[i - 7] + high;
    }
    memcpy(s, start, sizeof s);
    for (int i = 0; i < 64; i++) {
        uint32_t e = turned(s[4], 6) ^ turned(s[4], 11) ^ turned(s[4], 25);
        uint32_t one = s[7] + e + ((s[4] & s[5]) ^ (~s[4] & s[6])) + SHA256_ROUNDS[i] + w[i];
        uint32_t a = turned(s[0], 2) ^ turned(s[0], 13) ^ turned(s[0], 22);
        uint32_t two = a + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += one;
        s[0] = one + two;
    }
    for (int i = 0; i < DIGEST_SIZE; i++) at[i] = HEX[(start[i / 8] + s[i / 8]) >> (28 - 4 * (i % 8)) & 15];
}

/* ---- latencies in µs: 64 buckets to each power of two, so a percentile is at most 1.6 % too high ---- */

struct histogram {
    uint64_t count, sum_ns, max_us, buckets[40 * 64];
};

static void note_latency(struct histogram *histogram, uint64_t ns) {
    uint64_t us = ns / 1000;
    int shift = us < 128 ? 0 : 57 - __builtin_clzll(us); /* leaves 64 to 127 */
    size_t bucket = (size_t)shift * 64 + (size_t)(us >> shift);
    histogram->buckets[bucket < 40 * 64 ? bucket : 40 * 64 - 1]++;
    histogram->count++;
    histogram->sum_ns += ns;
    if (us > histogram->max_us) histogram->max_us = us;
}

static uint64_t percentile(const struct histogram *histogram, double share) {
    double wanted = share * (double)histogram->count;
    uint64_t seen = 0;
    for (size_t bucket = 0; bucket < 40 * 64; bucket++) {
        seen += histogram->buckets[bucket];
        if (!histogram->buckets[bucket] || (double)seen < wanted) continue;
        size_t shift = bucket < 128 ? 0 : bucket / 64 - 1;
        uint64_t highest = ((uint64_t)(bucket - shift * 64 + 1) << shift) - 1;
        return highest < histogram->max_us ? highest : histogram->max_us;
    }
    return 0;
}

/* ---- file of ids: little-endian int64s, written some hundred thousand at a time ---- */

enum { IDS_HELD = 1 << 19 };

static struct {
    const char *path;
    int fd;
    size_t count;
    uint64_t *held;
} ids;

static void open_ids(const char *path) {
    ids.path = path;
    ids.fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (ids.fd < 0) fail(1, "cannot write %s: %s", path, strerror(errno));
    ids.held = room_for(IDS_HELD, sizeof *ids.held);
    memset(ids.held, 1, IDS_HELD * sizeof *ids.held); /* pages are there before the clock runs */
}

static void write_ids(void) {
    const char *from = (const char *)ids.held;
    size_t left = ids.count * sizeof *ids.held;
    while (left) {
        ssize_t written = write(ids.fd, from, left);
        if (written < 0 && errno != EINTR) fail(1, "cannot write %s: %s", ids.path, strerror(errno));
        if (written > 0) from += written, left -= (size_t)written;
    }
    ids.count = 0;
}

static void note_id(uint64_t id) {
    if (!ids.path) return;
    ids.held[ids.count++] = htole64(id);
    if (ids.count == IDS_HELD) write_ids();
}

/* ---- an HTTP answer, fed as it comes ---- */

struct items; /* items.h */
static void read_items(struct items *items, const char *at, size_t length);

enum stage { STATUS, HEADERS, BODY, CHUNK_SIZE, CHUNK, CHUNK_END, TRAILERS, UNTIL_CLOSE, COMPLETE };
enum { LINE_KEPT = 256, BODY_KEPT = 512 };

struct answer {
    enum stage stage;
    int status;
    bool chunked, sized, closes;
    uint16_t line_length, body_length;
    uint64_t left; /* of the body or of the chunk */
    struct items *items; /* who reads all of the body, NULL for nobody */
    char line[LINE_KEPT], body[BODY_KEPT]; /* their beginnings; what lies beyond decides nothing here */
};

static void expect_answer(struct answer *answer) {
    answer->stage = STATUS;
    answer->status = 0;
    answer->chunked = answer->sized = answer->closes = false;
    answer->line_length = answer->body_length = 0;
    answer->left = 0;
}

static void keep(char *kept, uint16_t *length, size_t limit, const char *from, size_t count) {
    if (count > limit - *length) count = limit - *length;
    memcpy(kept + *length, from, count);
    *length = (uint16_t)(*length + count);
}

/* A whole line without its end, or NULL when there is more to come. It stays valid until the next call. */
static const char *whole_line(struct answer *answer, const char **at, const char *end, size_t *length) {
    const char *line = *at, *newline = memchr(line, '\n', (size_t)(end - line));
    *at = newline ? newline + 1 : end;
    *length = (size_t)((newline ? newline : end) - line);
    if (!newline || answer->line_length) {
        keep(answer->line, &answer->line_length, LINE_KEPT, line, *length);
        if (!newline) return NULL;
        line = answer->line;
        *length = answer->line_length;
        answer->line_length = 0;
    }
    if (*length && line[*length - 1] == '\r') --*length;
    return line;
}

/* The number at the beginning of a text, which only blanks may precede and only a non-digit may follow. */
static bool read_number(const char *at, const char *end, unsigned base, uint64_t *number) {
    while (at < end && (*at == ' ' || *at == '\t')) at++;
    const char *first = at;
    for (*number = 0; at < end && isxdigit((unsigned char)*at); at++) {
        unsigned digit = isdigit((unsigned char)*at) ? (unsigned)(*at - '0') : (unsigned)((*at | 32) - 'a' + 10);
        if (digit >= base || *number > ((uint64_t)INT64_MAX - digit) / base) return false;
        *number = *number * base + digit;
    }
    return at > first;
}

static bool has_word(const char *at, const char *end, const char *word) {
    for (size_t length = strlen(word); at + length <= end; at++)
        if (!strncasecmp(at, word, length)) return true;
    return false;
}

/* Where a header's value begins when it has this name, which is given with its colon; NULL otherwise. */
static const char *value_of(const char *line, size_t length, const char *name, size_t name_length) {
    return length >= name_length && !strncasecmp(line, name, name_length) ? line + name_length : NULL;
}
#define VALUE_OF(name) value_of(line, length, name, sizeof name - 1)

static bool read_header(struct answer *answer, const char *line, size_t length) {
    const char *value, *end = line + length;
    if ((*line | 32) != 'c' && (*line | 32) != 't') return true;
    if ((value = VALUE_OF("content-length:"))) {
        answer->sized = true;
        return read_number(value, end, 10, &answer->left);
    }
    if ((value = VALUE_OF("transfer-encoding:"))) {
        answer->chunked = has_word(value, end, "chunked");
    } else if ((value = VALUE_OF("connection:"))) {
        if (has_word(value, end, "close")) answer->closes = true;
        if (has_word(value, end, "keep-alive")) answer->closes = false;
    }
    return true;
}

static bool read_status(struct answer *answer, const char *line, size_t length) {
    uint64_t status;
    if (length < 12 || memcmp(line, "HTTP/1.", 7) || line[8] != ' ') return false;
    if (!read_number(line + 9, line + 12, 10, &status) || status < 100 || status > 999) return false;
    answer->status = (int)status;
    answer->closes = line[7] == '0';
    answer->stage = HEADERS;
    return true;
}

static void begin_body(struct answer *answer) {
    if (answer->status < 200) {
        expect_answer(answer); /* 100 and 103 precede the answer */
    } else if (answer->status == 204 || answer->status == 304) {
        answer->stage = COMPLETE;
    } else if (answer->chunked) {
        answer->stage = CHUNK_SIZE;
    } else if (answer->sized) {
        answer->stage = answer->left ? BODY : COMPLETE;
    } else {
        answer->stage = UNTIL_CLOSE;
        answer->closes = true;
    }
}

/* Take what is of this answer; where it ends, or NULL when that is no HTTP. */
static const char *feed(struct answer *answer, const char *at, const char *end) {
    size_t length;
    while (at < end && answer->stage != COMPLETE) {
        if (answer->stage == BODY || answer->stage == CHUNK || answer->stage == UNTIL_CLOSE) {
            length = (size_t)(end - at);
            if (answer->stage != UNTIL_CLOSE && length > answer->left) length = (size_t)answer->left;
            keep(answer->body, &answer->body_length, BODY_KEPT, at, length);
            if (answer->items) read_items(answer->items, at, length);
            at += length;
            if (answer->stage == UNTIL_CLOSE || (answer->left -= length)) continue;
            answer->stage = answer->stage == BODY ? COMPLETE : CHUNK_END;
            continue;
        }
        const char *line = whole_line(answer, &at, end, &length);
        if (!line) break;
        if (answer->stage == STATUS) {
            if (!read_status(answer, line, length)) return NULL;
        } else if (answer->stage == HEADERS) {
            if (!length) begin_body(answer);
            else if (!read_header(answer, line, length)) return NULL;
        } else if (answer->stage == CHUNK_SIZE) {
            if (!read_number(line, line + length, 16, &answer->left)) return NULL;
            answer->stage = answer->left ? CHUNK : TRAILERS;
        } else if (answer->stage == CHUNK_END) {
            if (length) return NULL;
            answer->stage = CHUNK_SIZE;
        } else if (!length) { /* after the trailers */
            answer->stage = COMPLETE;
        }
    }
    return at;
}

/* Where the value of a member of the answer's JSON begins, NULL when it has none; the name is given in its quotes. */
static const char *member(const struct answer *answer, const char *name) {
    const char *end = answer->body + answer->body_length;
    const char *at = memmem(answer->body, answer->body_length, name, strlen(name));
    if (!at) return NULL;
    at += strlen(name);
    while (at < end && isspace((unsigned char)*at)) at++;
    if (at == end || *at++ != ':') return NULL;
    while (at < end && isspace((unsigned char)*at)) at++;
    return at;
}
