//! Short work that many ask for at about the same time, done together: one hop to a blocking thread, and one look into the index, for a round of it instead of
//! one for each. Nobody waits for a round to fill: what comes while one runs is the next.

use crate::resolve::blocking;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Requests in one round at most: what it holds up, it holds up for a millisecond or two.
const ROUND: usize = 64;
/// Requests waiting for their round at most; beyond it, callers wait.
const QUEUE: usize = 1024;

/// Answers requests of type `T` with answers of type `R`.
pub struct Rounds<T, R>(mpsc::Sender<(T, oneshot::Sender<R>)>);

impl<T: Send + 'static, R: Send + 'static> Rounds<T, R> {
    /// `work` answers each request of a round, in their order. For what takes microseconds: a long one holds up all behind it. Ends when the handle is dropped.
    pub fn start(work: impl Fn(Vec<T>) -> Vec<R> + Send + Sync + 'static) -> Self {
        let (sender, mut queue) = mpsc::channel(QUEUE);
        let work = Arc::new(work);
        tokio::spawn(async move {
            let mut round: Vec<(T, oneshot::Sender<R>)> = Vec::with_capacity(ROUND);
            while queue.recv_many(&mut round, ROUND).await > 0 {
                let (requests, waiting): (Vec<T>, Vec<_>) = round.drain(..).unzip();
                let work = Arc::clone(&work);
                blocking(move || {
                    for (answer, waiting) in work(requests).into_iter().zip(waiting) {
                        let _ = waiting.send(answer);
                    }
                })
                .await;
            }
        });
        Self(sender)
    }

    /// The answer, once its round has come.
    pub async fn ask(&self, request: T) -> R {
        let (answer, answered) = oneshot::channel();
        let ended = "a round ends before its handle only by a panic, or with the runtime";
        assert!(self.0.send((request, answer)).await.is_ok(), "{ended}");
        answered.await.expect(ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[tokio::test]
    async fn what_comes_while_a_round_runs_is_answered_together_by_the_next() {
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&sizes);
        let rounds = Rounds::start(move |asked: Vec<usize>| {
            seen.lock().expect("a mutex").push(asked.len());
            asked
        });
        let answers = futures_util::future::join_all((0..1000).map(|n| rounds.ask(n))).await;
        assert!(answers.into_iter().eq(0..1000), "each gets its own answer");
        let sizes = sizes.lock().expect("a mutex");
        assert_eq!(sizes.iter().sum::<usize>(), 1000);
        assert!(sizes.iter().all(|size| *size <= ROUND) && sizes.len() < 100, "{sizes:?}");
    }

    #[tokio::test]
    #[should_panic(expected = "a round ends")]
    async fn a_round_that_panics_leaves_nobody_waiting() {
        let rounds = Rounds::start(|asked: Vec<u32>| asked.into_iter().map(|n| 1 / n).collect());
        rounds.ask(0).await;
    }
}
