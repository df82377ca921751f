//! A node's own folders: whether root, `.mirror`, state and index can be used by this user, and belong together. Nothing is made that is not there.

use super::finding::{Finding, count};
use common::{
    exit::{Failure, error_chain},
    index::{Coverage, Index, IndexError, NodeState},
    path::OWN_FOLDER,
    root::{MarkerError, Root, RootError, known_root},
    settings::Folders,
};
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, accessat, ioctl_getflags, open};
use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// `FS_CASEFOLD_FL`: names in this folder are compared without regard to case.
const CASEFOLD: u32 = 0x4000_0000;

/// Something that does not work, and what a person can do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trouble {
    pub text: String,
    pub hint: Option<String>,
}

impl Trouble {
    fn of(fault: impl common::exit::Fault) -> Self {
        let hint = fault.hint();
        Self { text: error_chain(&fault), hint }
    }

    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), hint: None }
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        let text = failure.to_string();
        let (text, hint) = match text.split_once("\n hint: ") {
            Some((text, hint)) => (text.to_owned(), Some(hint.to_owned())),
            None => (text, None),
        };
        Self { text: text.trim_start_matches("error: ").into(), hint }
    }
}

/// What stands there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// Why the root cannot be used, if it cannot.
    pub root: Option<Trouble>,
    /// Processes have worked on this root: `.mirror` is there.
    pub used: bool,
    /// `Cat` and `cat` are one file in it.
    pub folds_case: bool,
    /// Why the state directory cannot be used, if it cannot.
    pub state: Option<Trouble>,
    /// The user whose it is.
    pub state_owner: Option<u32>,
    /// What the index says; `None`: there is none.
    pub index: Option<Result<Known, Trouble>>,
    /// Why this root is not the one that the index knows, if it is not.
    pub marker: Option<Trouble>,
}

/// What the index knows of the node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Known {
    pub files: u64,
    pub bytes: u64,
    pub version: u64,
    pub coverage: Option<Coverage>,
}

fn is_there(path: &Path) -> bool {
    !matches!(fs::symlink_metadata(path), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

fn may(path: &Path, access: Access) -> Option<Trouble> {
    let error = accessat(CWD, path, access, AtFlags::EACCESS).err()?;
    Some(Trouble::new(format!("{}: {}", path.display(), io::Error::from(error))))
}

impl Facts {
    pub fn look(folders: &Folders) -> Self {
        let Folders { root, state } = folders;
        let own = root.join(OWN_FOLDER);
        // Opening a root makes these, which is not for us to do.
        let used = ["tmp", "trash"].iter().all(|name| is_there(&own.join(name)));
        let (opened, trouble) = match used.then(|| Root::open(root)) {
            Some(Ok(opened)) => (Some(opened), None),
            Some(Err(error)) => (None, Some(Trouble::of(error))),
            None => (None, new_root(root)),
        };
        let (index, marker) = index(&state.join("index.db"), root, opened.as_ref());
        Self {
            // That its marker is missing says more.
            root: trouble.filter(|_| marker.is_none()),
            used,
            folds_case: folds_case(root),
            state: state_trouble(state),
            state_owner: fs::metadata(state).ok().map(|meta| meta.uid()),
            index,
            marker,
        }
    }

    pub fn known(&self) -> Option<&Known> {
        self.index.as_ref()?.as_ref().ok()
    }
}

/// What would keep a process from beginning in a root in which nothing has run.
fn new_root(root: &Path) -> Option<Trouble> {
    let meta = match fs::metadata(root) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Some(Trouble::of(RootError::Missing(root.into())));
        }
        Err(error) => return Some(Trouble::of(RootError::Io(root.into(), error))),
    };
    if !meta.is_dir() {
        return Some(Trouble::of(RootError::NotAFolder(root.into())));
    }
    let all = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    may(root, all).map(|_| Trouble::of(RootError::NotWritable(root.into())))
}

fn state_trouble(state: &Path) -> Option<Trouble> {
    let all = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    if is_there(state) {
        let files = ["index.db", "index.db-wal", "index.db-shm", "instance"].map(|name| state.join(name));
        let files = files.iter().filter(|file| is_there(file));
        return may(state, all)
            .or_else(|| files.into_iter().find_map(|file| may(file, Access::READ_OK | Access::WRITE_OK)));
    }
    let above: PathBuf = state.ancestors().skip(1).find(|above| is_there(above))?.into();
    may(&above, Access::WRITE_OK | Access::EXEC_OK)
        .map(|trouble| Trouble::new(format!("it cannot be made: {}", trouble.text)))
}

/// What the index says, and why the root is not the one that it knows, if it is not. A root that cannot be opened is none, unless nothing of ours is there.
fn index(
    path: &Path,
    root: &Path,
    opened: Option<&Root>,
) -> (Option<Result<Known, Trouble>>, Option<Trouble>) {
    // An empty file is one that a process was just making: opening it would make the rest.
    if !fs::metadata(path).is_ok_and(|meta| meta.size() > 0) {
        return (None, None);
    }
    let read = || -> Result<(Index, NodeState, Option<Coverage>), IndexError> {
        let index = Index::open(path)?;
        let (node, coverage) = (index.node()?, index.coverage()?);
        Ok((index, node, coverage))
    };
    match read() {
        Ok((index, node, coverage)) => {
            let known = Known { files: node.files, bytes: node.bytes, version: node.version.get(), coverage };
            let gone = !is_there(&root.join(OWN_FOLDER));
            let marker = match opened {
                _ if node.marker_name.is_none() => None,
                Some(opened) => known_root(opened, &index).err(),
                None => gone.then(|| MarkerError::Missing(root.join(OWN_FOLDER).join("id"))),
            };
            (Some(Ok(known)), marker.map(Trouble::of))
        }
        Err(error) => (Some(Err(Trouble::of(error))), None),
    }
}

/// By the folder's own flag, and by whether `.mirror` answers to another name.
fn folds_case(root: &Path) -> bool {
    let flags = open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|folder| ioctl_getflags(&folder));
    let same = || -> io::Result<bool> {
        let number = |name: &str| Ok::<_, io::Error>(fs::symlink_metadata(root.join(name))?.ino());
        Ok(number(OWN_FOLDER)? == number(&OWN_FOLDER.to_uppercase())?)
    };
    flags.is_ok_and(|flags| flags.bits() & CASEFOLD != 0) || same().unwrap_or(false)
}

fn wrong(check: &'static str, trouble: &Trouble, why: &str) -> Finding {
    Finding::wrong(check, &trouble.text).why(why).hint(trouble.hint.as_ref())
}

pub fn judge_root(root: &Path, facts: &Facts) -> Finding {
    let at = root.display();
    match facts {
        Facts { root: Some(trouble), .. } => wrong("root", trouble, "no process can work on it"),
        Facts { marker: Some(trouble), .. } => {
            wrong("root", trouble, "a process that met another root would take its files for removed")
        }
        Facts { folds_case: true, .. } => Finding::wrong(
            "root",
            format!("{at} takes upper and lower case for the same"),
        )
        .why("names that differ only in case are two files on other nodes, and would replace each other here")
        .cure(format!("use a folder without casefold (an empty one: chattr -F {at})")),
        Facts { used: false, .. } => Finding::ok("root", format!("{at}; nothing has run on it yet")),
        _ => Finding::ok("root", format!("{at} can be read and written")),
    }
}

pub fn judge_state(state: &Path, facts: &Facts, uid: u32) -> Finding {
    let at = state.display();
    match &facts.state {
        Some(trouble) => {
            let cure = match facts.state_owner {
                Some(owner) if owner != uid => {
                    format!("sudo -u '#{owner}' replicator doctor …  # whose it is; as the processes")
                }
                Some(_) => format!("chmod -R u+rwX {at}"),
                None => format!("install -d -m 700 -o '#{uid}' {at}"),
            };
            Finding::wrong("state", format!("user {uid} cannot use it: {}", trouble.text))
                .why("index and locks are there; both processes of a node run as one user")
                .cure(cure)
        }
        None => Finding::ok("state", at.to_string()),
    }
}

pub fn judge_index(facts: &Facts) -> Finding {
    match &facts.index {
        None if facts.state.is_some() => {
            Finding::note("index", "it cannot be looked at, as the state cannot")
        }
        None => Finding::ok("index", "there is none yet: nothing has run here"),
        Some(Ok(known)) => {
            Finding::ok("index", format!("version {}, {}", known.version, count(known.files, "file")))
        }
        Some(Err(trouble)) => {
            const ANEW: &str = "if it is damaged: stop both processes, move index.db* out of the state directory, and start \
                them again: the tree is compared with the log anew";
            wrong("index", trouble, "without it nothing is published or placed").hint(Some(&ANEW.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::doctor::finding::Verdict::{Note, Ok, Wrong};
    use common::root::raise_marker;
    use std::sync::Arc;

    fn facts() -> Facts {
        Facts {
            root: None,
            used: true,
            folds_case: false,
            state: None,
            state_owner: None,
            index: None,
            marker: None,
        }
    }

    #[test]
    fn each_trouble_of_a_folder_is_wrong() {
        let path = Path::new("/srv/media");
        let trouble = || Some(Trouble { text: "denied".into(), hint: Some("permit it".into()) });
        let known = Known { files: 3, bytes: 5, version: 7, coverage: None };
        for (facts, root, state, index) in [
            (facts(), Ok, Ok, Ok),
            (Facts { used: false, ..facts() }, Ok, Ok, Ok),
            (Facts { root: trouble(), ..facts() }, Wrong, Ok, Ok),
            (Facts { marker: trouble(), ..facts() }, Wrong, Ok, Ok),
            (Facts { folds_case: true, ..facts() }, Wrong, Ok, Ok),
            (Facts { state: trouble(), ..facts() }, Ok, Wrong, Note),
            (Facts { index: Some(Result::Ok(known)), ..facts() }, Ok, Ok, Ok),
            (Facts { index: trouble().map(Err), ..facts() }, Ok, Ok, Wrong),
        ] {
            let found = [judge_root(path, &facts), judge_state(path, &facts, 33), judge_index(&facts)];
            assert_eq!(found.map(|finding| finding.verdict), [root, state, index], "{facts:?}");
        }
        let said = judge_root(path, &Facts { root: trouble(), ..facts() });
        assert_eq!((said.found.as_str(), said.cure.as_deref()), ("denied", Some("permit it")));
        for (owner, cure) in [
            (Some(34), "sudo -u '#34' replicator doctor …  # whose it is; as the processes"),
            (Some(33), "chmod -R u+rwX /srv/media"),
            (None, "install -d -m 700 -o '#33' /srv/media"),
        ] {
            let facts = Facts { state: trouble(), state_owner: owner, ..facts() };
            assert_eq!(judge_state(path, &facts, 33).cure.as_deref(), Some(cure));
        }
    }

    #[test]
    fn looking_makes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (root, state) = (dir.path().join("media"), dir.path().join("some/state"));
        let folders = Folders { root: root.clone(), state: state.clone() };
        let missing = Facts::look(&folders);
        assert!(missing.root.as_ref().is_some_and(|trouble| trouble.text.contains("does not exist")));
        fs::create_dir(&root).unwrap();
        assert_eq!(Facts::look(&folders), Facts { used: false, ..facts() });
        assert!(fs::read_dir(&root).unwrap().next().is_none() && !state.exists());
        fs::create_dir_all(&state).unwrap();
        fs::write(state.join("index.db"), b"").unwrap();
        let own = fs::metadata(&state).unwrap().uid();
        assert_eq!(Facts::look(&folders).state_owner, Some(own));
        assert_eq!(Facts::look(&folders).index, None);
        assert_eq!(fs::read(state.join("index.db")).unwrap(), b"");
        fs::write(state.join("index.db"), b"no database at all, and long enough to be looked at").unwrap();
        assert!(matches!(Facts::look(&folders).index, Some(Err(_))));
        fs::remove_file(state.join("index.db")).unwrap();
        drop(Root::open(&root).unwrap());
        assert!(Facts::look(&folders).used);
        assert_eq!(fs::read_dir(root.join(".mirror/tmp")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_root_without_its_marker_is_told_from_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let folders = Folders { root: dir.path().join("media"), state: dir.path().join("state") };
        fs::create_dir(&folders.root).unwrap();
        fs::create_dir(&folders.state).unwrap();
        let index = Index::open(&folders.state.join("index.db")).unwrap();
        let root = Arc::new(Root::open(&folders.root).unwrap());
        raise_marker(&root, &index).await.unwrap();
        assert_eq!(Facts::look(&folders).marker, None);
        // As when the disk is not mounted.
        fs::rename(folders.root.join(".mirror"), dir.path().join("away")).unwrap();
        let unmounted = Facts::look(&folders);
        assert!(unmounted.marker.is_some_and(|trouble| trouble.text.contains("unmounted")));
        assert!(fs::read_dir(&folders.root).unwrap().next().is_none());
    }
}
