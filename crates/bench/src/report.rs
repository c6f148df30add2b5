//! What a measurement gives, as one object.

use serde::Serialize;

use super::{Fingerprint, Row};

/// The layout of [`Report`] as JSON; raised when a field changes its meaning or goes.
pub const SCHEMA: u32 = 1;

/// Everything that was measured, and on what.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// When it began, Unix seconds.
    pub when: f64,
    /// How long all of it took.
    pub seconds: f64,
    /// Samples asked for.
    pub runs: usize,
    /// Starts at once.
    pub parallel: usize,
    /// Whether it was only a look: its figures say little.
    pub quick: bool,
    /// What starts were compared with.
    pub floor: FloorReport,
    /// What it was measured on.
    pub fingerprint: Fingerprint,
    /// The rows, in the order in which they were measured.
    pub rows: Vec<Row>,
}

impl Report {
    /// How many samples failed, those of the floor too.
    pub fn failed(&self) -> usize {
        self.rows.iter().map(Row::failed).sum()
    }
}

/// The floor, or its absence.
#[derive(Clone, Debug, Serialize)]
pub struct FloorReport {
    /// What it is, in words.
    pub description: Option<String>,
    /// Why there is none.
    pub missing: Option<String>,
}
