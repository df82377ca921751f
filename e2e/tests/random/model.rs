//! What should stand where. Each node has a folder of its own, in which only its users write: there the model knows exactly what the mirror
//! must come to. In the folder `shared` all of them write the same paths: there one of what was written since the last agreement wins. What loses,
//! anywhere, must not be lost.

use crate::contents::Id;
use std::collections::{BTreeMap, BTreeSet};

/// What the model knows of a path.
#[derive(Clone, Default, Debug)]
struct Known {
    /// What may stand there; `None`: nothing.
    may: BTreeSet<Option<Id>>,
    /// What stood there at any time since the last agreement.
    had: BTreeSet<Option<Id>>,
}

impl Known {
    fn only(&mut self, content: Option<Id>) {
        self.may = BTreeSet::from([content]);
        self.had.insert(content);
    }

    fn also(&mut self, content: Option<Id>) {
        self.may.insert(content);
        self.had.insert(content);
    }
}

/// The model.
#[derive(Default)]
pub struct Model {
    paths: BTreeMap<String, Known>,
    /// Contents that a user wrote and no user of that node has replaced or removed since: they must be somewhere.
    standing: BTreeSet<Id>,
    /// The log forgot something since the last agreement.
    forgot: bool,
    /// What stood where at any time since the copy of the broker's store was made that may be put back, that time included.
    since_copy: BTreeMap<String, BTreeSet<Option<Id>>>,
    /// That copy was put back since the last agreement.
    went_back: bool,
}

impl Model {
    /// A user wrote a path, where `stood` stood.
    pub fn write(&mut self, path: &str, id: Id, stood: Option<Id>) {
        self.gone(stood);
        self.standing.insert(id);
        self.set(path, Some(id));
    }

    /// A user gave the file another name of its own.
    pub fn link(&mut self, path: &str, id: Id) {
        self.set(path, Some(id));
    }

    /// A user removed a path, where `stood` stood.
    pub fn remove(&mut self, path: &str, stood: Option<Id>) {
        self.gone(stood);
        self.set(path, None);
    }

    /// A user renamed a file with this content to a path where `stood` stood.
    pub fn rename(&mut self, from: &str, to: &str, id: Id, stood: Option<Id>) {
        self.write(to, id, stood);
        self.set(from, None);
    }

    /// Whether anybody wrote or removed this path since the last agreement, or it stood then.
    pub fn knows(&self, path: &str) -> bool {
        self.paths.contains_key(path)
    }

    fn set(&mut self, path: &str, content: Option<Id>) {
        let known = self.paths.entry(path.into()).or_insert_with(|| Known { may: nothing(), had: nothing() });
        if is_shared(path) {
            known.also(content)
        } else {
            known.only(content)
        }
        self.since_copy.entry(path.into()).or_insert_with(nothing).insert(content);
    }

    fn gone(&mut self, stood: Option<Id>) {
        stood.iter().for_each(|id| _ = self.standing.remove(id));
    }

    /// The log forgot its last moments, or everything. Until the nodes agree again absence proves nothing, and of what changed since they last
    /// agreed, what other nodes hold counts: a removal may be undone, and of two contents of a path one wins.
    pub fn forgot(&mut self) {
        self.forgot = true;
    }

    /// Whether the log forgot something since the last agreement.
    pub fn has_forgotten(&self) -> bool {
        self.forgot
    }

    /// The broker's store is copied, at an agreement.
    pub fn store_copied(&mut self) {
        let stands = |(path, known): (&String, &Known)| (path.clone(), known.may.clone());
        self.since_copy = self.paths.iter().map(stands).collect();
    }

    /// The copy of the store was put back: the log knows nothing of what happened since it was made, and of what stood at a path at any time since,
    /// the one counts that the nodes can prove to be the newest.
    pub fn went_back(&mut self) {
        (self.forgot, self.went_back) = (true, true);
    }

    /// Holds what the nodes agree on against the model, which then takes it for what should be. Answers which contents must be elsewhere: in the
    /// log's history, or in a trash.
    ///
    /// # Errors
    /// The first path that is not as it may be.
    pub fn agree(&mut self, tree: &BTreeMap<String, Id>) -> Result<Vec<Id>, String> {
        let (forgot, went_back) = (std::mem::take(&mut self.forgot), std::mem::take(&mut self.went_back));
        let paths = self.paths.keys().chain(self.since_copy.keys().filter(|_| went_back));
        let paths: BTreeSet<String> = paths.cloned().collect();
        for path in &paths {
            let found = tree.get(path).copied();
            let mut may = match self.paths.get(path) {
                Some(known) if forgot => known.had.clone(),
                Some(known) => known.may.clone(),
                None => nothing(),
            };
            may.extend(self.since_copy.get(path).filter(|_| went_back).into_iter().flatten());
            if !may.contains(&found) {
                return Err(format!("{path}: found {found:?}, it may be {may:?}"));
            }
        }
        if let Some(path) = tree.keys().find(|path| !paths.contains(*path)) {
            return Err(format!("{path}: nobody wrote there"));
        }
        let known = |id: &Id| Known { may: BTreeSet::from([Some(*id)]), had: BTreeSet::from([Some(*id)]) };
        self.paths = tree.iter().map(|(path, id)| (path.clone(), known(id))).collect();
        let here: BTreeSet<Id> = tree.values().copied().collect();
        let elsewhere = self.standing.difference(&here).copied().collect();
        self.standing = here;
        Ok(elsewhere)
    }
}

/// What stands at a path that nobody has written.
fn nothing() -> BTreeSet<Option<Id>> {
    BTreeSet::from([None])
}

/// Whether several nodes write there.
pub fn is_shared(path: &str) -> bool {
    path.starts_with("shared/")
}
