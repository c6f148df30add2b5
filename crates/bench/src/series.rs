//! Samples, and what is said of them: nearest-rank percentiles, failures counted beside them.

use serde::Serialize;

/// Samples in the order in which they were taken, and why others were not.
#[derive(Clone, Debug, Default)]
pub(super) struct Series {
    samples: Vec<f64>,
    failures: Vec<String>,
}

impl Series {
    /// Nothing yet.
    pub(super) const fn new() -> Self {
        Self { samples: Vec::new(), failures: Vec::new() }
    }

    /// A sample, or why there is none.
    pub(super) fn push(&mut self, sample: Result<f64, String>) {
        match sample {
            Ok(sample) => self.samples.push(sample),
            Err(why) => self.failures.push(why),
        }
    }

    /// Whether anything was tried.
    fn is_empty(&self) -> bool {
        self.samples.is_empty() && self.failures.is_empty()
    }
}

/// What is said of a series.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// How many samples there are.
    pub n: usize,
    /// The median, as all percentiles the sample of the nearest rank: of an even number, the lower of the middle two.
    pub median: Option<f64>,
    /// The 95th percentile.
    pub p95: Option<f64>,
    /// The least.
    pub min: Option<f64>,
    /// The most.
    pub max: Option<f64>,
    /// All of them, in the order in which they were taken.
    pub samples: Vec<f64>,
    /// How many more were tried and failed.
    pub failed: usize,
    /// Why each of those failed.
    pub failures: Vec<String>,
}

impl From<Series> for Summary {
    fn from(series: Series) -> Self {
        // Nobody measures to more than a millionth, and the numbers are for people too.
        let samples: Vec<f64> = series.samples.iter().map(|sample| (sample * 1e4).round() / 1e4).collect();
        Self {
            n: samples.len(),
            median: percentile(&samples, 50),
            p95: percentile(&samples, 95),
            min: percentile(&samples, 0),
            max: percentile(&samples, 100),
            failed: series.failures.len(),
            failures: series.failures,
            samples,
        }
    }
}

/// The nearest-rank percentile; none without samples.
fn percentile(samples: &[f64], percent: usize) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (percent * sorted.len()).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

/// What a row is compared with, measured in turn with it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Against {
    /// What it is, in words.
    pub what: String,
    /// Its samples.
    #[serde(flatten)]
    pub summary: Summary,
}

/// One thing that was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Its name, which stays the same between versions.
    pub name: &'static str,
    /// What it is, in words, with what it was measured on.
    pub what: String,
    /// The unit of its samples and of those it is compared with.
    pub unit: &'static str,
    /// Its samples.
    #[serde(flatten)]
    pub summary: Summary,
    /// What it is compared with.
    pub floor: Option<Against>,
    /// Its median divided by that of the floor.
    pub ratio: Option<f64>,
    /// How many cores other processes used meanwhile, on average; rows that were measured together share it.
    pub other_work: Option<f64>,
    /// Why it cannot be measured on this host, where that is so; then it has no samples.
    pub pending: Option<String>,
}

impl Row {
    /// A row of its own, compared with nothing.
    pub(super) fn new(
        name: &'static str,
        unit: &'static str,
        what: impl Into<String>,
        series: Series,
    ) -> Self {
        let summary = series.into();
        let what = what.into();
        Self { name, what, unit, summary, floor: None, ratio: None, other_work: None, pending: None }
    }

    /// One that this host cannot show, and why.
    pub(super) fn pending(
        name: &'static str,
        unit: &'static str,
        what: impl Into<String>,
        why: String,
    ) -> Self {
        Self { pending: Some(why), ..Self::new(name, unit, what, Series::default()) }
    }

    /// Compared with this, unless nothing of it was tried.
    pub(super) fn against(mut self, what: impl Into<String>, series: Series) -> Self {
        if series.is_empty() {
            return self;
        }
        let summary = Summary::from(series);
        self.ratio = match (self.summary.median, summary.median) {
            (Some(ours), Some(floor)) if floor > 0.0 => Some((ours / floor * 1e3).round() / 1e3),
            _ => None,
        };
        self.floor = Some(Against { what: what.into(), summary });
        self
    }

    /// How many samples of it and of its floor failed.
    pub fn failed(&self) -> usize {
        self.summary.failed + self.floor.as_ref().map_or(0, |floor| floor.summary.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn series(samples: &[f64]) -> Series {
        Series { samples: samples.to_vec(), failures: Vec::new() }
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let samples: Vec<f64> = (1..=20).rev().map(f64::from).collect();
        let summary = Summary::from(series(&samples));
        assert_eq!((summary.median, summary.p95), (Some(10.0), Some(19.0)));
        assert_eq!((summary.min, summary.max, summary.n), (Some(1.0), Some(20.0), 20));
        assert_eq!(summary.samples, samples, "in the order in which they were taken");
        let one = Summary::from(series(&[7.0]));
        assert_eq!((one.median, one.p95, one.min, one.max), (Some(7.0), Some(7.0), Some(7.0), Some(7.0)));
    }

    #[test]
    fn without_samples_there_is_nothing_to_say() {
        let mut failed = Series::default();
        failed.push(Err("why".into()));
        let row = Row::new("name", "ms", "what", failed.clone()).against("floor", series(&[1.0]));
        assert_eq!((row.summary.n, row.summary.failed, row.summary.median), (0, 1, None));
        assert_eq!((row.ratio, row.failed()), (None, 1));
        let pending = Row::pending("name", "ms", "what", "why".into());
        assert_eq!((pending.summary.n, pending.failed(), pending.pending.as_deref()), (0, 0, Some("why")));
        let row = Row::new("name", "ms", "what", series(&[1.0])).against("floor", failed);
        assert_eq!((row.ratio, row.failed()), (None, 1));
        assert_eq!(row.floor.unwrap().summary.failures, ["why"]);
    }

    #[test]
    fn a_row_is_one_flat_object() {
        let row = Row::new("warm_start", "ms", "what", series(&[3.0, 1.0, 2.0]));
        let value = serde_json::to_value(row.clone()).unwrap();
        assert_eq!(value["floor"], serde_json::Value::Null);
        let row = row.against("bare", series(&[0.5, 0.5]));
        let value = serde_json::to_value(row).unwrap();
        for (field, wanted) in [("n", 3.0), ("median", 2.0), ("p95", 3.0), ("min", 1.0), ("max", 3.0)] {
            assert_eq!(value[field].as_f64(), Some(wanted), "{field}: {value}");
        }
        assert_eq!(value["ratio"], 4.0);
        assert_eq!(value["floor"]["what"], "bare");
        assert_eq!(value["floor"]["samples"], serde_json::json!([0.5, 0.5]));
        assert_eq!((&value["failed"], &value["failures"]), (&0.into(), &serde_json::json!([])));
    }

    proptest! {
        #[test]
        fn percentiles_are_samples_in_order(samples in prop::collection::vec(-1e9_f64..1e9, 1..40)) {
            let all = [0, 50, 95, 100].map(|percent| percentile(&samples, percent).unwrap());
            prop_assert!(all.is_sorted());
            prop_assert!(all.iter().all(|value| samples.contains(value)));
        }
    }
}
