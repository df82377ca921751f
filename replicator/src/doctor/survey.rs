//! A walk over the tree that only looks, within a time: how large it is, whose it is, and what this user may not do there.
//!
//! It is not the walk of the root, which needs `.mirror`: here nothing may have run before.

use super::{
    finding::{Finding, count},
    processes::Process,
};
use common::{path::OWN_FOLDER, root::IgnoreRules};
use indicatif::{HumanBytes, HumanCount};
use rustix::fs::{Access, AtFlags, CWD, accessat};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Whoever waits for the answer does not wait for a million files; what was seen by then is judged.
const TIME: Duration = Duration::from_secs(10);
/// Owners that are told apart.
const OWNERS: usize = 64;

/// How many, and the first of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Example {
    pub count: u64,
    pub first: PathBuf,
}

impl Example {
    fn add(&mut self, path: &Path) {
        if self.count == 0 {
            self.first = path.into();
        }
        self.count += 1;
    }
}

/// What a walk saw.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Survey {
    /// It came to the end of the tree.
    pub complete: bool,
    /// The root included.
    pub folders: u64,
    pub files: u64,
    pub bytes: u64,
    /// The owner of the root.
    pub owner: u32,
    /// Files by owner.
    pub owners: BTreeMap<u32, Example>,
    /// Files and folders that cannot be read.
    pub unreadable: Example,
    /// Folders in which nothing can be placed.
    pub unwritable: Example,
}

fn may(path: &Path, access: Access) -> bool {
    accessat(CWD, path, access, AtFlags::EACCESS).is_ok()
}

/// What belongs to the tree.
struct Tree<'a> {
    root: &'a Path,
    rules: &'a IgnoreRules,
    device: u64,
}

impl Tree<'_> {
    /// Neither ours, nor ignored, nor on another disk.
    fn has(&self, path: &Path, meta: &fs::Metadata) -> bool {
        let below = path.strip_prefix(self.root).unwrap_or(path);
        let ours = below == Path::new(OWN_FOLDER);
        meta.dev() == self.device && !ours && !self.rules.covers(below, meta.is_dir())
    }
}

impl Survey {
    /// `None`: there is no such folder, or nobody may look at it.
    pub fn look(root: &Path, rules: &IgnoreRules) -> Option<Self> {
        let meta = fs::metadata(root).ok().filter(fs::Metadata::is_dir)?;
        let began = Instant::now();
        let mut survey = Self { owner: meta.uid(), complete: true, ..Self::default() };
        let tree = Tree { root, rules, device: meta.dev() };
        let mut waiting = vec![root.to_owned()];
        while let Some(folder) = waiting.pop() {
            if began.elapsed() > TIME {
                return Some(Self { complete: false, ..survey });
            }
            survey.folder(&folder, &tree, &mut waiting);
        }
        Some(survey)
    }

    fn folder(&mut self, folder: &Path, tree: &Tree<'_>, waiting: &mut Vec<PathBuf>) {
        self.folders += 1;
        if !may(folder, Access::WRITE_OK | Access::EXEC_OK) {
            self.unwritable.add(folder);
        }
        let Ok(entries) = fs::read_dir(folder) else { return self.unreadable.add(folder) };
        for entry in entries.flatten() {
            // What is gone by now, and what stands on another disk, is not of the tree.
            let Ok(meta) = entry.metadata() else { continue };
            let path = entry.path();
            match tree.has(&path, &meta) {
                true if meta.is_dir() => waiting.push(path),
                true if meta.is_file() => self.file(&path, &meta),
                _ => {}
            }
        }
    }

    fn file(&mut self, path: &Path, meta: &fs::Metadata) {
        (self.files, self.bytes) = (self.files + 1, self.bytes + meta.len());
        if self.owners.len() < OWNERS || self.owners.contains_key(&meta.uid()) {
            self.owners.entry(meta.uid()).or_default().add(path);
        }
        if !may(path, Access::READ_OK) {
            self.unreadable.add(path);
        }
    }

    fn size(&self) -> String {
        let least = if self.complete { "" } else { "at least " };
        let (files, folders) = (count(self.files, "file"), count(self.folders, "folder"));
        format!("{least}{files} ({}) in {folders}", HumanBytes(self.bytes))
    }
}

/// Whether this user may do with the tree what a node does.
/// `no_rules`: why it is not known what is ignored.
pub fn judge_files(root: &Path, survey: Option<&Survey>, no_rules: Option<&str>, uid: u32) -> Finding {
    if let Some(error) = no_rules {
        return Finding::wrong("files", error)
            .why("without knowing what is ignored no watcher begins")
            .cure(format!("$EDITOR {}/.mirrorignore", root.display()));
    }
    let Some(survey) = survey else { return Finding::ok("files", "there is no tree to look at") };
    let Survey { unreadable, unwritable, .. } = survey;
    let cure = format!(
        "run the processes as the owner of the files, or give user {uid} the rights:\n\
         setfacl -R -m u:{uid}:rwX -m d:u:{uid}:rwX {}",
        root.display()
    );
    if unreadable.count > 0 {
        let (many, first) = (HumanCount(unreadable.count), unreadable.first.display());
        return Finding::wrong("files", format!("user {uid} cannot read {many} of them: {first}"))
            .why("what cannot be read reaches no other node")
            .cure(cure);
    }
    if unwritable.count > 0 {
        let (many, first) = (count(unwritable.count, "folder"), unwritable.first.display());
        return Finding::wrong("files", format!("user {uid} cannot write in {many}: {first}"))
            .why("what others publish below them cannot be placed here")
            .cure(cure);
    }
    Finding::ok("files", survey.size())
}

/// Whether placed files get the owner that they should have. `asked`: `--owner`.
pub fn judge_owner(survey: Option<&Survey>, process: &Process, asked: Option<u32>) -> Finding {
    let (uid, who) = (process.uid, process.to_string());
    if process.gives_away {
        return Finding::ok("owner", format!("{who} may give files to others"));
    }
    let service = "run the replicator as root, or with AmbientCapabilities=CAP_CHOWN CAP_FOWNER";
    if let Some(asked) = asked.filter(|&asked| asked != uid) {
        return Finding::wrong("owner", format!("user {uid} cannot give files to user {asked} (--owner)"))
            .why("placed files keep the user of the process")
            .cure(service);
    }
    let Some(survey) = survey else { return Finding::ok("owner", format!("user {uid}")) };
    if survey.owner != uid {
        return Finding::note("owner", format!("the root is of user {}, {who} of user {uid}", survey.owner))
            .why(format!(
                "placed files are of user {uid}: whoever edits them must be permitted by their mode"
            ))
            .cure(format!("{service},\nor run the processes as user {}", survey.owner));
    }
    let others = survey.owners.iter().filter(|&(&owner, _)| owner != uid).map(|(_, files)| files);
    let foreign: u64 = others.clone().map(|files| files.count).sum();
    match others.max_by_key(|files| files.count) {
        Some(most) => {
            let (foreign, all) = (HumanCount(foreign), HumanCount(survey.files));
            let found = format!("{foreign} of {all} files are not of user {uid}: {}", most.first.display());
            Finding::note("owner", found)
                .why("their mode and time cannot be set here, and replaced ones become files of this user")
                .cure(service)
        }
        None => Finding::ok("owner", format!("root and files are of user {uid}, as is {who}")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::doctor::finding::Verdict::{Note, Ok, Wrong};

    #[test]
    fn a_walk_counts_what_is_mirrored_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in ["a/b", ".mirror/trash", "c/.mirror"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        for file in ["a/one", "a/b/two", ".mirror/trash/three", "c/.mirror/four", "c/x.part", "a/mine"] {
            fs::write(at(file), b"12345").unwrap();
        }
        std::os::unix::fs::symlink("a", at("link")).unwrap();
        let rules = IgnoreRules::read(dir.path(), &["mine".into()]).unwrap();
        let survey = Survey::look(dir.path(), &rules).unwrap();
        // `.mirror` is ours at the top only.
        assert_eq!((survey.folders, survey.files, survey.bytes), (5, 3, 15));
        assert!(survey.complete && survey.unwritable.count == 0 && survey.owners.len() == 1);
        assert_eq!(Survey::look(&at("nothing"), &rules), None);
        assert_eq!(Survey::look(&at("a/one"), &rules), None);
    }

    fn example(count: u64) -> Example {
        Example { count, first: "/srv/media/first".into() }
    }

    #[test]
    fn what_cannot_be_read_or_written_is_named() {
        let root = Path::new("/srv/media");
        for (unreadable, unwritable, verdict, says) in [
            (0, 0, Ok, "3 files"),
            (2, 0, Wrong, "cannot read 2 of them: /srv/media/first"),
            (2, 1, Wrong, "cannot read 2"),
            (0, 1, Wrong, "cannot write in 1 folder: /srv/media/first"),
        ] {
            let (unreadable, unwritable) = (example(unreadable), example(unwritable));
            let survey = Survey { files: 3, complete: true, unreadable, unwritable, ..Survey::default() };
            let finding = judge_files(root, Some(&survey), None, 33);
            assert_eq!(finding.verdict, verdict, "{finding}");
            assert!(finding.found.contains(says), "{finding}");
        }
        assert_eq!(judge_files(root, None, None, 33).verdict, Ok);
        assert_eq!(judge_files(root, None, Some("no pattern"), 33).verdict, Wrong);
    }

    #[test]
    fn files_of_others_are_a_matter_of_rights() {
        let process = |uid, gives_away| Process { role: None, pid: 1, uid, gives_away, descriptors: None };
        let survey =
            |owner, files: u32| Survey { owner, owners: [(files, example(3))].into(), ..Survey::default() };
        for (survey, process, asked, verdict) in [
            (survey(33, 33), process(33, false), None, Ok),
            (survey(33, 33), process(33, false), Some(33), Ok),
            (survey(33, 33), process(33, false), Some(34), Wrong),
            (survey(33, 33), process(0, true), Some(34), Ok),
            (survey(33, 33), process(34, false), None, Note),
            (survey(33, 34), process(33, false), None, Note),
            (survey(33, 34), process(0, true), None, Ok),
        ] {
            let finding = judge_owner(Some(&survey), &process, asked);
            assert_eq!(finding.verdict, verdict, "{survey:?} {asked:?}: {finding}");
        }
    }
}
