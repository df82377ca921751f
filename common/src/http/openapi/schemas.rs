//! The shapes of what goes in and out. What a reader need not know yet may come to them: readers ignore fields that they do not know.

use crate::path::{MAX_COMPONENT, MAX_PATH};
use serde_json::{Value, json};

/// All that have a name.
pub fn all() -> Value {
    json!({
        "Problem": problem(), "Reason": reason(), "Record": record(), "Node": node(), "Event": event(), "Where": whereabouts(),
        "Parked": parked(), "Sample": sample(), "Transfer": transfer(),
    })
}

/// One of them.
pub fn named(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// A list of one of them.
pub fn list(name: &str) -> Value {
    json!({ "type": "array", "items": named(name) })
}

/// These fields, all of them there.
pub fn object(fields: Value) -> Value {
    let names: Vec<&String> = fields.as_object().into_iter().flatten().map(|(name, _)| name).collect();
    json!({ "type": "object", "required": names, "properties": fields })
}

/// The same, or null.
pub fn or_null(mut schema: Value) -> Value {
    match schema["type"].take() {
        kind @ Value::String(_) => schema["type"] = json!([kind, "null"]),
        _ => return json!({ "anyOf": [schema, { "type": "null" }] }),
    }
    schema
}

/// Text.
pub fn text() -> Value {
    json!({ "type": "string" })
}

/// A number of whatever is counted.
pub fn count() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

/// A moment.
pub fn time() -> Value {
    json!({ "type": "string", "format": "date-time" })
}

/// Seconds, and parts of them.
pub fn seconds() -> Value {
    json!({ "type": "number", "minimum": 0 })
}

/// One of these words.
pub fn one_of(words: &[&str]) -> Value {
    json!({ "type": "string", "enum": words })
}

/// The name of a content.
pub fn sha256() -> Value {
    json!({ "type": "string", "pattern": "^[0-9a-f]{64}$" })
}

/// A version of the log.
pub fn version() -> Value {
    json!({ "type": "integer", "minimum": 1, "maximum": u64::MAX })
}

/// Where in the log to begin: 0 is 1.
pub fn from() -> Value {
    json!({ "type": "integer", "minimum": 0, "maximum": u64::MAX })
}

/// A path as the value of a parameter.
pub fn path() -> Value {
    let component = format!("[^/\\u0000]{{1,{MAX_COMPONENT}}}");
    let pattern = format!(r"^(?!\.mirror(/|$))(?!(.*/)?\.\.?(/|$)){component}(/{component})*$");
    let text = "Relative, its components parted by one `/`, none of them `.` or `..` or over 255 bytes, and the first not `.mirror`";
    json!({ "type": "string", "minLength": 1, "maxLength": MAX_PATH, "pattern": pattern, "description": text })
}

/// A path as the end of another.
pub fn path_in_url() -> Value {
    let pattern = format!(r"^(?!\.mirror$)(?!\.\.?$)[^/\u0000]{{1,{MAX_COMPONENT}}}$");
    let text = "The components behind each other, parted by `/` as they are, which OpenAPI cannot say; all other bytes as `%XX` where they need it";
    json!({ "type": "string", "minLength": 1, "maxLength": MAX_COMPONENT, "pattern": pattern, "description": text })
}

/// How long to wait.
pub fn timeout() -> Value {
    let text = "A number with `ms`, `s` or `m`, at most 60 s";
    json!({ "type": "string", "pattern": "^([0-9]{1,4}ms|[0-5]?[0-9]s|60s|[01]m)$", "default": "10s", "description": text })
}

/// On how many nodes.
pub fn enough() -> Value {
    let text = "`all` that live, or a number from 1 on";
    json!({ "type": "string", "pattern": "^(all|[1-9][0-9]{0,5})$", "description": text })
}

/// Fields of [`whereabouts`] that stand in other answers, too.
pub fn have_and_missing() -> [(&'static str, Value); 2] {
    let why = one_of(&[
        "behind",
        "down",
        "stopped",
        "parked",
        "may_be_parked",
        "other_log",
        "unpublished",
        "removed",
    ]);
    let missing = object(json!({ "node": text(), "reason": why, "text": text() }));
    [
        ("have", json!({ "type": "array", "items": text() })),
        ("missing", json!({ "type": "array", "items": missing })),
    ]
}

fn whereabouts() -> Value {
    let [(_, have), (_, missing)] = have_and_missing();
    object(json!({ "version": or_null(count()), "have": have, "missing": missing }))
}

fn problem() -> Value {
    let mut schema = object(json!({
        "title": text(), "status": { "type": "integer", "minimum": 400, "maximum": 599 }, "detail": text(),
    }));
    schema["description"] = json!("By RFC 9457, with fields of its own for some of them");
    schema["properties"]["parameter"] =
        json!({ "type": "string", "description": "The parameter that cannot be so" });
    schema
}

fn reason() -> Value {
    object(json!({ "reason": text(), "text": text() }))
}

fn record() -> Value {
    let diverged = object(json!({
        "since": time(), "from": { "type": "array", "items": text() }, "checked": or_null(time()), "differing": count(),
        "paths": { "type": "array", "items": text() },
    }));
    let underway = object(json!({ "what": text(), "percent": count(), "left_s": or_null(count()) }));
    let range = json!({ "type": "array", "items": count(), "minItems": 2, "maxItems": 2 });
    object(json!({
        "v": { "const": 1 }, "node": text(), "role": one_of(&["watcher", "replicator"]), "boot": text(), "instance": text(),
        "state": one_of(&["starting", "syncing", "ready", "degraded", "stopping"]), "stream_created": or_null(text()),
        "version": count(), "head": count(), "beyond": { "type": "array", "items": range }, "pending": count(), "parked": count(),
        "parked_at": { "type": "array", "items": count() }, "digest": text(), "files": count(), "bytes": count(),
        "disk_free": or_null(count()), "http": or_null(text()), "build": text(), "durable": { "type": ["boolean", "null"] },
        "store": text(), "diverged": or_null(diverged), "underway": or_null(underway), "started": time(),
        "last_error": or_null(text()),
    }))
}

fn node() -> Value {
    let judged = object(json!({ "age": seconds(), "down": { "type": "boolean" }, "lag": count() }));
    json!({ "allOf": [named("Record"), judged] })
}

fn event() -> Value {
    let mut schema = object(json!({ "version": count(), "time": time() }));
    schema["description"] =
        json!("The payload of the event, or, of a message that is none, `subject` and `invalid`: why");
    let may_be = json!({
        "type": one_of(&["added", "removed"]), "path": text(), "path_b64": text(), "sha256": sha256(), "size": count(),
        "mtime": time(), "mode": text(), "node": text(), "replaces": count(), "detected": time(), "subject": text(),
        "invalid": text(),
    });
    for (name, field) in may_be.as_object().into_iter().flatten() {
        schema["properties"][name] = field.clone();
    }
    schema
}

fn parked() -> Value {
    object(json!({
        "version": count(), "subject": text(), "path": or_null(text()), "time": time(), "reason": text(),
        "permanent": { "type": "boolean" }, "since": time(), "tries": count(), "next_try": or_null(time()),
    }))
}

fn sample() -> Value {
    object(json!({
        "at": time(), "files": count(), "bytes": count(), "latency": or_null(seconds()), "latency_max": or_null(seconds()),
    }))
}

fn transfer() -> Value {
    object(json!({ "path": text(), "bytes": count(), "size": count() }))
}
