"""Every statement of the Cassandra store, by name. Which table each reads is in cassandra/README.md."""

from __future__ import annotations

PAGE = 2000
"""Rows of one answer, where a read goes on by key: the driver's own way would cut at 5,000 and say nothing. The statements below have it as LIMIT."""

_KEYED = "FROM {keyspace}.keyed_usages"

STATEMENTS = {
    "insert_usage": "INSERT INTO {keyspace}.usages (block, id, usage) VALUES (?, ?, ?)",
    "select_usages": "SELECT id, usage, WRITETIME(usage) FROM {keyspace}.usages WHERE block = ? AND id IN ?",
    "insert_keyed": "INSERT INTO {keyspace}.keyed_usages (bucket, key, digest, usage) VALUES (?, ?, ?, ?)",
    # With the write time, so that read repair takes in ``usage``, which the primary key alone would not make it do: a
    # duplicate is acknowledged, so the row must be whole on every replica that the consistency level counts.
    "select_digests": f"SELECT key, digest, WRITETIME(usage) {_KEYED} WHERE bucket = ? AND key IN ?",
    "select_keyed": f"SELECT key, digest, usage, WRITETIME(usage) {_KEYED} WHERE bucket = ? AND key IN ?",
    "insert_message": "INSERT INTO {keyspace}.messages (digest, message) VALUES (?, ?)",
    "select_messages": "SELECT digest, message FROM {keyspace}.messages WHERE digest IN ?",
    "select_written": "SELECT digest, WRITETIME(message), to_unix_timestamp(now()) FROM {keyspace}.messages WHERE digest IN ?",
    "delete_message": "DELETE FROM {keyspace}.messages USING TIMESTAMP ? WHERE digest = ?",
    "select_next_id": "SELECT next FROM {keyspace}.id_ranges WHERE name = 'usages'",
    "first_lease": "INSERT INTO {keyspace}.id_ranges (name, next) VALUES ('usages', ?) IF NOT EXISTS",
    "move_next_id": "UPDATE {keyspace}.id_ranges SET next = ? WHERE name = 'usages' IF next = ?",
    # The directory of days, minutes and places.
    "select_clock": "SELECT to_unix_timestamp(now()) FROM system.local WHERE key = 'local'",
    "insert_day": "INSERT INTO {keyspace}.usage_days (name, day) VALUES ('usages', ?)",
    "insert_minute": "INSERT INTO {keyspace}.usage_minutes (day, minute) VALUES (?, ?)",
    "insert_place": "INSERT INTO {keyspace}.usage_directory (minute, since_us, place) VALUES (?, ?, ?)",
    "insert_writer": "INSERT INTO {keyspace}.usage_writers (minute, writer, settled) VALUES (?, ?, false)",
    "settle_writer": "UPDATE {keyspace}.usage_writers SET settled = true, created = ? WHERE minute = ? AND writer = ?",
    "settle_deleter": "UPDATE {keyspace}.usage_writers SET settled = true WHERE minute = ? AND writer = ?",
    "select_days": (
        "SELECT day FROM {keyspace}.usage_days WHERE name = 'usages' AND day >= ? AND day <= ? ORDER BY day LIMIT 2000"
    ),
    "select_minutes": (
        "SELECT minute, count FROM {keyspace}.usage_minutes WHERE day = ? AND minute >= ? AND minute <= ? ORDER BY minute"
    ),
    "select_places": (
        "SELECT since_us, place FROM {keyspace}.usage_directory"
        " WHERE minute = ? AND (since_us, place) > (?, ?) LIMIT 2000"
    ),
    "select_writers": (
        "SELECT writer, settled, created, WRITETIME(settled) FROM {keyspace}.usage_writers"
        " WHERE minute = ? AND writer > ? LIMIT 2000"
    ),
    "seal_minute": "UPDATE {keyspace}.usage_minutes SET count = ? WHERE day = ? AND minute = ?",
    "void_minute": "DELETE count FROM {keyspace}.usage_minutes WHERE day = ? AND minute = ?",
    # What is in a place.
    "count_block": (
        "SELECT COUNT(usage), MIN(WRITETIME(usage)), MAX(WRITETIME(usage)) FROM {keyspace}.usages WHERE block = ?"
    ),
    "count_bucket": f"SELECT COUNT(usage), MIN(WRITETIME(usage)), MAX(WRITETIME(usage)) {_KEYED} WHERE bucket = ?",
    "times_of_block": "SELECT id, WRITETIME(usage) FROM {keyspace}.usages WHERE block = ? AND id > ? LIMIT ?",
    "times_of_bucket": (
        f"SELECT key, digest, WRITETIME(usage) {_KEYED} WHERE bucket = ? AND (key, digest) > (?, ?) LIMIT ?"
    ),
    "times_of_keys": f"SELECT key, digest, WRITETIME(usage) {_KEYED} WHERE bucket IN ?",
    "texts_of_keys": f"SELECT key, digest, usage, WRITETIME(usage) {_KEYED} WHERE bucket IN ?",
    # DELETE of usages.
    "delete_usage": "DELETE FROM {keyspace}.usages WHERE block = ? AND id = ?",
    "delete_keyed": "DELETE FROM {keyspace}.keyed_usages WHERE bucket = ? AND key = ? AND digest = ?",
}
"""In the braces goes the quoted keyspace."""

PATIENT_STATEMENTS = {
    "insert_usage": "INSERT INTO {keyspace}.usages (block, id, usage, patient_id) VALUES (?, ?, ?, ?)",
    "insert_keyed": (
        "INSERT INTO {keyspace}.keyed_usages (bucket, key, digest, usage, patient_id) VALUES (?, ?, ?, ?, ?)"
    ),
    "patient_in_block": (
        "SELECT TOKEN(block), block, id, usage, WRITETIME(usage) FROM {keyspace}.usages"
        " WHERE block = ? AND id > ? AND patient_id = ? LIMIT ?"
    ),
    "patient_in_blocks": (
        "SELECT TOKEN(block), block, id, usage, WRITETIME(usage) FROM {keyspace}.usages"
        " WHERE TOKEN(block) > ? AND patient_id = ? LIMIT ?"
    ),
    "patient_in_bucket": (
        f"SELECT TOKEN(bucket), bucket, key, digest, usage, WRITETIME(usage) {_KEYED}"
        " WHERE bucket = ? AND (key, digest) > (?, ?) AND patient_id = ? LIMIT ?"
    ),
    "patient_in_buckets": (
        f"SELECT TOKEN(bucket), bucket, key, digest, usage, WRITETIME(usage) {_KEYED}"
        " WHERE TOKEN(bucket) > ? AND patient_id = ? LIMIT ?"
    ),
}
"""In place of those above, and beside them, while the patient index is on."""

TAKE_LONG = frozenset(
    name
    for name in (*STATEMENTS, *PATIENT_STATEMENTS)
    if name.startswith(("count_", "times_of_", "texts_of_", "patient_in_"))
)
"""Those that read many rows, for lists and counts: that one takes its time says nothing of the node."""
