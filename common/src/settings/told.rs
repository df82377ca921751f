//! All settings as they are, each with the place that it came from.

use super::{
    CollectArgs, CommonArgs, DownloadArgs, HealthArgs, HookArgs, Layers, PlaceArgs, ReadArgs, ReceiveArgs,
    ScrubArgs, UploadArgs, WatchArgs, layers::KEYS,
};
use clap::Args;
use std::ffi::OsString;

/// One setting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told {
    /// Its key in the file, and as a flag.
    pub key: &'static str,
    /// What was given, as it was typed; nothing: the default. User and password of a URL are left out.
    pub values: Vec<String>,
    /// Where, as in `--node`, `MEDIAMIRROR_NODE`, `node in /etc/mediamirror/config.toml`; `None`: the default.
    pub origin: Option<String>,
    /// The default, as the help has it, if it says one.
    pub default: Option<String>,
}

impl Layers {
    /// All of them, by key. `flags`: what was typed on the command line for a key.
    pub fn told(&self, flags: impl Fn(&'static str) -> Vec<OsString>) -> Vec<Told> {
        let help = all_flags();
        let told = |key: &'static str| {
            let typed = flags(key);
            let given = self.list(key, typed.iter().map(OsString::as_os_str));
            let shown = |value: &OsString| shown(key, &value.to_string_lossy());
            Told {
                key,
                values: given.iter().map(|given| shown(&given.value)).collect(),
                origin: given.first().map(|given| given.origin.to_string()),
                default: help_of(&help, key).1,
            }
        };
        KEYS.iter().map(|(key, _)| told(key)).collect()
    }
}

/// A configuration file with every key, each with what it means and its default, and all of them commented out.
pub fn example() -> String {
    let mut text = String::from(
        "# Settings of mediamirror, for both programs: what a flag is called on the command line is a key here. A variable of the environment\n\
         # (MEDIAMIRROR_NODE for node) beats this file, and a flag beats both; `replicator config` shows what came of it. A size is 64MiB, a\n\
         # duration 10s. Without the # a line counts.\n",
    );
    let flags = all_flags();
    for (key, nats) in KEYS.iter().filter(|(key, _)| *key != "config") {
        let (meaning, default) = help_of(&flags, key);
        let default = default.unwrap_or_default();
        let also = nats.map(|name| format!("; {name} does, too")).unwrap_or_default();
        // Not every default is something that can be typed.
        let words = default.contains(' ') || *key == "history";
        let told = if words { format!("; by default {default}") } else { String::new() };
        let value = match *key {
            "ignore" => "[]".into(),
            _ if words => "\"\"".into(),
            _ => format!("\"{default}\""),
        };
        text.push_str(&format!("\n# {meaning}{also}{told}\n#{key} = {value}\n"));
    }
    text
}

fn shown(key: &str, value: &str) -> String {
    if key != "nats-url" && key != "blobs" {
        return value.into();
    }
    let urls = value.split(',').map(|url| match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => format!("{}***{}", &url[..scheme + 3], &url[at..]),
        (None, Some(at)) => format!("***{}", &url[at..]),
        _ => url.into(),
    });
    urls.collect::<Vec<_>>().join(",")
}

/// The flags of all commands, for their help.
fn all_flags() -> clap::Command {
    let mut all = CommonArgs::augment_args(clap::Command::new("all"));
    for augment in [
        UploadArgs::augment_args,
        DownloadArgs::augment_args,
        ReceiveArgs::augment_args,
        WatchArgs::augment_args,
        PlaceArgs::augment_args,
        ScrubArgs::augment_args,
        HealthArgs::augment_args,
        ReadArgs::augment_args,
        HookArgs::augment_args,
        CollectArgs::augment_args,
    ] {
        // Some flags are in two groups.
        let mut group = augment(clap::Command::new("group"));
        group.build();
        for argument in group.get_arguments() {
            if argument.get_long().is_some()
                && !all.get_arguments().any(|known| known.get_id() == argument.get_id())
            {
                all = all.arg(argument.clone());
            }
        }
    }
    all
}

/// What a flag means, and its default, as its help has them.
fn help_of(flags: &clap::Command, key: &str) -> (String, Option<String>) {
    let flag = flags.get_arguments().find(|flag| flag.get_long() == Some(key));
    let help = flag.and_then(clap::Arg::get_help).map(ToString::to_string).unwrap_or_default();
    match help.split_once(" [default: ") {
        Some((meaning, default)) => (meaning.into(), default.strip_suffix(']').map(str::to_owned)),
        None => (help, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Environment;

    #[test]
    fn each_key_has_a_flag_and_says_where_its_value_is_from() {
        let flags = all_flags();
        for (key, _) in KEYS {
            assert!(flags.get_arguments().any(|flag| flag.get_long() == Some(key)), "{key} has no flag");
        }
        let environment = Environment::from_iter([
            ("MEDIAMIRROR_TRANSFERS", "7"),
            ("NATS_URL", "nats://user:secret@a:4222,tls://token@b,c"),
        ]);
        let layers = Layers::new(None, environment).expect("no file");
        let told = layers.told(|key| if key == "node" { vec!["web-1".into()] } else { Vec::new() });
        let find = |key| {
            let found = told.iter().find(|told| told.key == key).expect("a key");
            (found.values.join("|"), found.origin.clone().unwrap_or_default())
        };
        assert_eq!(find("node"), ("web-1".into(), "--node".into()));
        assert_eq!(find("transfers"), ("7".into(), "MEDIAMIRROR_TRANSFERS".into()));
        assert_eq!(find("nats-url"), ("nats://***@a:4222,tls://***@b,c".into(), "NATS_URL".into()));
        assert_eq!(find("trash-days"), (String::new(), String::new()));
        let default = told.iter().find(|told| told.key == "trash-days").and_then(|told| told.default.clone());
        assert_eq!(default.as_deref(), Some("7"));
    }
}
