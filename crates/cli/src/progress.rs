//! `[pull] phase=…` lines on stderr, and on a terminal a bar beneath them while a phase lasts; a bar for trees that are
//! copied.

use std::sync::{Arc, Mutex};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pyro_core::environment::{PullEvent, PullPhase, Unit};
use pyro_core::workspace::OnMoved;

use crate::terminal;

/// Shows one pull.
pub struct Pull {
    environment: String,
    shown: Mutex<Shown>,
}

#[derive(Default)]
struct Shown {
    phase: Option<PullPhase>,
    bar: Option<ProgressBar>,
}

impl Pull {
    /// Progress of this environment's installation.
    pub fn new(environment: &str) -> Self {
        Self { environment: environment.to_owned(), shown: Mutex::default() }
    }

    /// Shows one event.
    pub fn show(&self, event: &PullEvent) {
        let Ok(mut shown) = self.shown.lock() else { return };
        if shown.phase != Some(event.phase) {
            if let Some(bar) = shown.bar.take() {
                bar.finish_and_clear();
            }
            shown.phase = Some(event.phase);
            let detail = match (&event.detail, event.progress) {
                (Some(detail), None) => format!(" {detail}"),
                _ => String::new(),
            };
            // `\r` because a program of the build, or `-t`, may have the terminal in raw mode.
            let end = if terminal::stderr_is_terminal() { "\r\n" } else { "\n" };
            let line = format!("[pull] phase={} environment={}{detail}{end}", event.phase, self.environment);
            crate::output::say(&line);
        }
        let Some(progress) = event.progress else { return };
        if !terminal::stderr_is_terminal() {
            return;
        }
        let bar = shown.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(Some(progress.total), ProgressDrawTarget::stderr());
            let template = match progress.unit {
                Unit::Steps => "       {bar:30} {pos}/{len} {elapsed} {wide_msg}",
                Unit::Bytes => "       {bar:30} {bytes}/{total_bytes} {elapsed} {wide_msg}",
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar
        });
        bar.set_length(progress.total);
        bar.set_position(progress.done);
        if let Some(detail) = &event.detail {
            bar.set_message(detail.clone());
        }
    }
}

impl Drop for Pull {
    fn drop(&mut self) {
        if let Ok(shown) = self.shown.lock()
            && let Some(bar) = &shown.bar
        {
            bar.finish_and_clear();
        }
    }
}

/// A bar on a terminal while a tree is copied.
pub struct Transfer {
    bar: Option<ProgressBar>,
}

impl Transfer {
    /// Progress of a copy that the bar names `what`.
    pub fn new(what: &'static str) -> Self {
        let bar = terminal::stderr_is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_message(what);
            bar
        });
        Self { bar }
    }

    /// Listener that moves the bar.
    pub fn listener(&self) -> OnMoved {
        let Some(bar) = self.bar.clone() else { return Arc::new(|_| {}) };
        let styled = Mutex::new(None);
        Arc::new(move |moved| {
            let known = moved.total_bytes.is_some_and(|total| total > 0);
            if let Ok(mut styled) = styled.lock()
                && styled.replace(known) != Some(known)
            {
                let template = match known {
                    true => "[{msg}] {bar:20} {bytes}/{total_bytes} {bytes_per_sec} {prefix}",
                    false => "[{msg}] {spinner} {bytes} {bytes_per_sec} {elapsed} {prefix}",
                };
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style);
                }
            }
            if let Some(total) = moved.total_bytes {
                bar.set_length(total);
            }
            bar.set_prefix(entries(moved.entries));
            bar.set_position(moved.bytes);
        })
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// So many files and directories, in words.
pub fn entries(count: u64) -> String {
    match count {
        1 => "1 entry".to_owned(),
        count => format!("{count} entries"),
    }
}
