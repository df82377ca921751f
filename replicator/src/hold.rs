//! Rule 8 for replacements: files that stand here and that neither this index nor the log knows are replaced one by one, but not in bulk. A full node that was
//! joined to the wrong mirror keeps what it has until an operator says what is meant.

use crate::node::{ApplyError, Node};
use common::{
    blobs::BlobStore,
    bulk::{SHARE, WINDOW, exceeds},
    index::{Answer, HeldKind},
    log::EventLog,
    path::MediaPath,
    resolve::blocking,
    root::{Entry, IgnoreRules, Root, walk},
};
use std::{
    collections::HashMap,
    ops::ControlFlow,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::time::Instant;

/// What becomes of an unknown file at the path of an addition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It goes to the trash as a lost conflict.
    Replace,
    /// It stays until an operator answers; the event is parked.
    Hold,
    /// It stays, and the watcher publishes it over the event.
    Keep,
}

/// Decides. `answer`: `None` when the path is not held. `others`: other paths are held without an answer. `too_many`: this one would be one too many.
pub fn judge(answer: Option<Answer>, others: bool, too_many: bool) -> Verdict {
    match answer {
        Some(Answer::Approved) => Verdict::Replace,
        Some(Answer::Reverted) => Verdict::Keep,
        Some(Answer::None) => Verdict::Hold,
        None if others || too_many => Verdict::Hold,
        None => Verdict::Replace,
    }
}

/// The unknown files that were, or are about to be, replaced within the last minute. A path counts once, however often its event is tried.
#[derive(Default)]
pub struct Replacing(Mutex<Recent>);

#[derive(Default)]
struct Recent {
    paths: HashMap<MediaPath, Instant>,
    /// The tree has at least so many files.
    tree: u64,
}

impl Replacing {
    fn is_too_many(&self, path: &MediaPath, count: impl FnOnce(u64) -> u64) -> bool {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        recent.paths.retain(|_, at| now.duration_since(*at) <= WINDOW);
        if recent.paths.is_empty() {
            recent.tree = 0;
        }
        recent.paths.insert(path.clone(), now);
        let all = recent.paths.len() as u64;
        if exceeds(all, recent.tree) {
            // Twice what is needed, so that a flood of them does not walk the tree for each.
            recent.tree = count(all.saturating_mul(SHARE * 2));
        }
        let too_many = exceeds(all, recent.tree);
        if too_many {
            recent.paths.remove(path);
        }
        too_many
    }

    /// The operator has seen what was held: what comes now is counted anew.
    fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Recent::default();
    }
}

/// Asked before an unknown file is replaced. What is held is in the index when this returns.
pub async fn may_replace<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    path: &MediaPath,
) -> Result<Verdict, ApplyError> {
    let answer = node.index.held_answer(path, HeldKind::Replacement)?;
    let others = answer.is_none() && node.index.held_count()?.replacements > 0;
    let too_many = answer.is_none() && !others && {
        let (root, replacing, at) = (Arc::clone(&node.root), Arc::clone(&node.replacing), path.clone());
        blocking(move || replacing.is_too_many(&at, |enough| files_of(&root, enough))).await
    };
    let verdict = judge(answer, others, too_many);
    if answer == Some(Answer::Approved) {
        node.replacing.forget();
    }
    if verdict == Verdict::Hold && answer.is_none() {
        let path = path.clone();
        node.index.write(move |tx| tx.hold(&[path], HeldKind::Replacement)).await?;
    }
    Ok(verdict)
}

/// How many files stand in the tree; no more than `enough` are counted.
fn files_of(root: &Root, enough: u64) -> u64 {
    let mut files = 0;
    let _ = walk(root, Path::new(""), &IgnoreRules::none(), &mut |entry| {
        files += u64::from(matches!(entry, Entry::File(..)));
        if files >= enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operators_answer_decides_then_what_else_is_held_then_the_limit() {
        use Verdict::*;
        for (answer, others, too_many, expected) in [
            (None, false, false, Replace),
            (None, false, true, Hold),
            (None, true, false, Hold),
            (Some(Answer::None), false, false, Hold),
            (Some(Answer::Approved), true, true, Replace),
            (Some(Answer::Reverted), true, true, Keep),
        ] {
            assert_eq!(judge(answer, others, too_many), expected, "{answer:?} {others} {too_many}");
        }
    }

    #[test]
    fn a_path_counts_once_and_the_tree_is_counted_only_when_it_matters() {
        let path = |n: u64| -> MediaPath { n.to_string().parse().expect("a path") };
        let small = Replacing::default();
        for n in 0..100 {
            assert!(!small.is_too_many(&path(n), |_| unreachable!("a hundred are free")));
        }
        assert!(!small.is_too_many(&path(7), |_| unreachable!("it is one of them")));
        assert!(small.is_too_many(&path(100), |_| 1009));
        assert!(!small.is_too_many(&path(7), |_| unreachable!("what is held does not count")));
        small.forget();
        assert!(!small.is_too_many(&path(100), |_| unreachable!("counted anew")));
        let large = Replacing::default();
        let mut walks = 0;
        for n in 0..200 {
            let held = large.is_too_many(&path(n), |enough| {
                walks += 1;
                enough
            });
            assert!(!held);
        }
        assert_eq!(walks, 1);
    }
}
