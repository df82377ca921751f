//! Who is told of changes.

use super::{HookArgs, Layers, SettingsError, layers::Given, parse_duration};
use std::{
    ffi::{OsStr, OsString},
    time::Duration,
};

/// How long a command may take, where nothing is said.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A command that is told of changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HookSettings {
    /// For `/bin/sh -c`.
    pub command: OsString,
    /// How long it may take.
    pub timeout: Duration,
}

impl HookArgs {
    /// Checks what was typed. `None`: nobody is told.
    pub fn resolve(&self, layers: &Layers) -> Result<Option<HookSettings>, SettingsError> {
        let given = layers.pick("on-change-timeout", self.on_change_timeout.as_deref().map(OsStr::new));
        let positive = |given: Given| {
            let timeout = parse_duration(given.text()?).map_err(|error| given.refuse(error))?;
            if timeout.is_zero() { Err(given.refuse("no time at all")) } else { Ok(timeout) }
        };
        let timeout = given.map_or(Ok(TIMEOUT), positive)?;
        let Some(given) = layers.pick("on-change", self.on_change.as_deref()) else { return Ok(None) };
        if given.value.as_encoded_bytes().trim_ascii().is_empty() {
            return Err(given.refuse("no command"));
        }
        Ok(Some(HookSettings { command: given.value, timeout }))
    }
}
