//! How far a command has come: a bar on a terminal, a line in the log every 10 s everywhere else.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    io::{self, IsTerminal},
    time::Duration,
};
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

/// Between two lines.
const EVERY: Duration = Duration::from_secs(10);

/// A bar; it is gone when it is dropped.
pub struct Bar {
    bar: ProgressBar,
    _lines: Option<AbortOnDropHandle<()>>,
}

impl Bar {
    /// Shows one of so many steps (bytes, files). `what` is for the log, `style` a template of `indicatif`.
    ///
    /// # Panics
    /// When the template is none.
    pub fn show(what: &'static str, total: u64, style: ProgressStyle) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        bar.set_style(style);
        if io::stderr().is_terminal() {
            return Self { bar, _lines: None };
        }
        bar.set_draw_target(ProgressDrawTarget::hidden());
        let told = bar.clone();
        let lines = tokio::spawn(async move {
            loop {
                sleep(EVERY).await;
                let (done, total) = (told.position(), told.length().unwrap_or_default());
                let percent = done.saturating_mul(100).checked_div(total).unwrap_or(0).min(100);
                let left_s = (done > 0).then(|| told.eta().as_secs());
                tracing::info!(what, percent, left_s, "under way");
            }
        });
        Self { bar, _lines: Some(AbortOnDropHandle::new(lines)) }
    }

    /// What is counted on.
    pub fn counter(&self) -> &ProgressBar {
        &self.bar
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A style by its template.
///
/// # Panics
/// When it is none.
pub fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("a good template")
}
