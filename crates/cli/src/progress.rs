//! `[pull] phase=…` lines on stderr, and on a terminal a bar beneath them while a phase lasts.

use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pyro_core::environment::{Phase, PullEvent, Unit};

use crate::terminal;

/// Shows one pull.
pub struct Pull {
    environment: String,
    shown: Mutex<Shown>,
}

#[derive(Default)]
struct Shown {
    phase: Option<Phase>,
    bar: Option<ProgressBar>,
}

impl Pull {
    /// For this environment.
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
            eprint!("[pull] phase={} environment={}{detail}{end}", event.phase, self.environment);
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
