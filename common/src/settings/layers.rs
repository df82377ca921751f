//! Where a setting comes from. A flag beats the environment, which beats the configuration file; what none of them
//! says has its default. Here everything is still text, with the place it came from, so that every complaint names it.

use super::error::SettingsError;
use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt, fs,
    path::{Path, PathBuf},
    str::FromStr,
};

/// Every setting: the flag `--<name>`, the variable `MEDIAMIRROR_<NAME>`, the key in the file, and the nats CLI's variable.
pub(super) const KEYS: [(&str, Option<&str>); 36] = [
    ("blob-retention", None),
    ("blobs", None),
    ("config", None),
    ("context", Some("NATS_CONTEXT")),
    ("creds", Some("NATS_CREDS")),
    ("download-limit", None),
    ("durable-blobs", None),
    ("gc-every", None),
    ("history", None),
    ("http", None),
    ("http-token-file", None),
    ("ignore", None),
    ("log-format", None),
    ("max-lag", None),
    ("max-upload", None),
    ("min-free", None),
    ("mirror", None),
    ("miss-wait", None),
    ("nats-url", Some("NATS_URL")),
    ("nkey", Some("NATS_NKEY")),
    ("node", None),
    ("on-change", None),
    ("on-change-timeout", None),
    ("owner", None),
    ("removals", None),
    ("replicas", None),
    ("root", None),
    ("scrub-every", None),
    ("scrub-rate", None),
    ("state", None),
    ("tls-ca", Some("NATS_CA")),
    ("tls-cert", Some("NATS_CERT")),
    ("tls-key", Some("NATS_KEY")),
    ("transfers", None),
    ("trash-days", None),
    ("upload-limit", None),
];

/// The environment, taken once, so that nothing else reads it.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// That of this process.
    pub fn of_process() -> Self {
        std::env::vars_os().collect()
    }

    /// All that is text.
    pub fn variables(&self) -> Vec<(String, String)> {
        let text = |value: &OsString| value.to_str().map(str::to_owned);
        self.0.iter().filter_map(|(name, value)| Some((text(name)?, text(value)?))).collect()
    }

    /// A variable that is set and not empty.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }
}

/// Some of it is secret.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Environment({} variables)", self.0.len())
    }
}

impl<K: Into<OsString>, V: Into<OsString>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}

/// How near to the command line a value was given; the greater wins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// The configuration file.
    File,
    /// The environment.
    Environment,
    /// The command line.
    Flag,
}

/// Where a value was given, for people: `--node`, `MEDIAMIRROR_NODE`, or `node in /etc/mediamirror.toml`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    /// How near to the command line.
    pub level: Level,
    text: String,
}

impl Origin {
    pub(super) fn new(level: Level, text: impl Into<String>) -> Self {
        Self { level, text: text.into() }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A value as it was typed.
#[derive(Clone)]
pub(super) struct Given {
    pub value: OsString,
    pub origin: Origin,
}

impl Given {
    pub fn text(&self) -> Result<&str, SettingsError> {
        self.value.to_str().ok_or_else(|| self.refuse("not UTF-8"))
    }

    pub fn refuse(&self, reason: impl fmt::Display) -> SettingsError {
        SettingsError::BadValue {
            origin: self.origin.clone(),
            value: self.value.to_string_lossy().into_owned(),
            reason: reason.to_string(),
        }
    }

    pub fn parse<T: FromStr<Err: fmt::Display>>(&self) -> Result<T, SettingsError> {
        self.text()?.trim().parse().map_err(|error| self.refuse(error))
    }

    /// A number within a range.
    pub fn within(&self, least: u64, most: u64) -> Result<u64, SettingsError> {
        match self.text()?.trim().parse() {
            Ok(number) if (least..=most).contains(&number) => Ok(number),
            _ => Err(self.refuse(format!("not a whole number from {least} to {most}"))),
        }
    }
}

/// The environment and the configuration file. Flags are handed in with each question.
pub struct Layers {
    environment: Environment,
    file: BTreeMap<String, Vec<String>>,
    path: PathBuf,
}

impl Layers {
    /// Reads the configuration file, where `--config` or `MEDIAMIRROR_CONFIG` names one, and checks its keys.
    pub fn new(config: Option<&Path>, environment: Environment) -> Result<Self, SettingsError> {
        let mut layers = Self { environment, file: BTreeMap::new(), path: PathBuf::new() };
        if let Some(given) = layers.pick("config", config.map(Path::as_os_str)) {
            layers.path = given.value.into();
            layers.file = read(&layers.path)?;
        }
        Ok(layers)
    }

    pub(super) fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The value of a setting, from the nearest place that gives it.
    pub(super) fn pick(&self, key: &'static str, flag: Option<&OsStr>) -> Option<Given> {
        let all = self.list(key, flag.into_iter());
        all.into_iter().next()
    }

    /// The values of a setting that may be given often. The nearest place replaces the others; a variable has one a line.
    pub(super) fn list<'a>(&self, key: &'static str, flags: impl Iterator<Item = &'a OsStr>) -> Vec<Given> {
        let given = |value: &OsStr, level, text: &str| Given {
            value: value.into(),
            origin: Origin::new(level, text),
        };
        let flags: Vec<_> = flags.map(|value| given(value, Level::Flag, &format!("--{key}"))).collect();
        if !flags.is_empty() {
            return flags;
        }
        let ours = format!("MEDIAMIRROR_{}", key.to_uppercase().replace('-', "_"));
        let theirs = KEYS.iter().find(|(name, _)| *name == key).and_then(|(_, nats)| *nats);
        for name in std::iter::once(ours.as_str()).chain(theirs) {
            if let Some(value) = self.environment.get(name) {
                return match value.to_str().filter(|text| key == "ignore" && text.contains('\n')) {
                    Some(lines) => {
                        lines.lines().map(|line| given(line.as_ref(), Level::Environment, name)).collect()
                    }
                    None => vec![given(value, Level::Environment, name)],
                };
            }
        }
        let text = format!("{key} in {}", self.path.display());
        let values = self.file.get(key).into_iter().flatten();
        values.map(|value| given(value.as_ref(), Level::File, &text)).collect()
    }
}

fn known() -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|(name, _)| *name)
}

fn read(path: &Path) -> Result<BTreeMap<String, Vec<String>>, SettingsError> {
    let text =
        fs::read_to_string(path).map_err(|source| SettingsError::Unreadable { path: path.into(), source })?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| SettingsError::NotToml {
        path: path.into(),
        reason: error.to_string().trim_end().into(),
    })?;
    table.into_iter().map(|(key, value)| checked(path, key, &value)).collect()
}

fn checked(path: &Path, key: String, value: &toml::Value) -> Result<(String, Vec<String>), SettingsError> {
    if key == "config" || !known().any(|name| name == key) {
        let nearest = known().filter(|name| *name != "config").min_by_key(|name| distance(name, &key));
        let nearest = nearest.filter(|name| distance(name, &key) <= key.len().max(3) / 2);
        return Err(SettingsError::UnknownKey { path: path.into(), key, nearest });
    }
    let scalar = |value: &toml::Value| match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(yes) => Some(yes.to_string()),
        _ => None,
    };
    let values = match value {
        toml::Value::Array(values) if key == "ignore" => values.iter().map(scalar).collect(),
        other => scalar(other).map(|text| vec![text]),
    };
    let bad = || SettingsError::BadValue {
        origin: Origin::new(Level::File, format!("{key} in {}", path.display())),
        value: format!("a value of type {}", value.type_str()),
        reason: "not text, a whole number, true or false".into(),
    };
    Ok((key.clone(), values.ok_or_else(bad)?))
}

/// How many letters must be added, dropped or changed to make one word of the other.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let changed = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = changed.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.chars().count()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_letters() {
        for (a, b, far) in [("", "", 0), ("root", "rot", 1), ("node", "mode", 1), ("kitten", "sitting", 3)] {
            assert_eq!(distance(a, b), far, "{a} {b}");
        }
    }

    #[test]
    fn the_nearest_place_wins() {
        let environment =
            Environment::from_iter([("NATS_URL", "a"), ("MEDIAMIRROR_NODE", "n"), ("MEDIAMIRROR_ROOT", "")]);
        let layers = Layers::new(None, environment).expect("no file");
        let pick = |key, flag: Option<&str>| {
            layers.pick(key, flag.map(OsStr::new)).map(|g| (g.value, g.origin.to_string()))
        };
        assert_eq!(pick("nats-url", None), Some(("a".into(), "NATS_URL".into())));
        assert_eq!(pick("nats-url", Some("b")), Some(("b".into(), "--nats-url".into())));
        assert_eq!(pick("node", None), Some(("n".into(), "MEDIAMIRROR_NODE".into())));
        assert_eq!(pick("root", None), None, "an empty variable is none");
    }
}
