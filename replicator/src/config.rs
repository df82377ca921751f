//! `replicator config`: each setting of both programs, and where it came from.

use clap::ArgMatches;
use common::{
    exit::Exit,
    settings::{Layers, Told},
};
use serde_json::json;
use std::ffi::OsString;

/// Prints them. What cannot be was refused before.
pub fn run(layers: &Layers, typed: &ArgMatches, json: bool) -> Exit {
    let flags = |key: &'static str| -> Vec<OsString> {
        let id = key.replace('-', "_");
        if typed.try_contains_id(&id).is_err() {
            return Vec::new();
        }
        typed.get_raw(&id).into_iter().flatten().map(OsString::from).collect()
    };
    for told in layers.told(flags) {
        println!("{}", if json { in_json(&told) } else { in_text(&told) });
    }
    Exit::Done
}

fn in_json(told: &Told) -> String {
    let Told { key, values, origin, default } = told;
    let value = match values.as_slice() {
        [] => json!(null),
        [one] => json!(one),
        some => json!(some),
    };
    json!({ "key": key, "value": value, "origin": origin, "default": default }).to_string()
}

fn in_text(told: &Told) -> String {
    let Told { key, values, origin, default } = told;
    match origin {
        Some(origin) => format!("{key:<18} {:<32} {origin}", values.join(" ")),
        None => format!("{key:<18} {:<32} default", default.as_deref().unwrap_or("-")),
    }
}
