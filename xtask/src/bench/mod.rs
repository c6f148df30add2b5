//! `cargo xtask bench`: every number that SPECIFICATION.md promises, measured in one run on this host.
//!
//! Starts are compared with the floor (`bench/qemu_floor.py`: a bare QEMU with the same kernel and memory and none of
//! our code) in alternating rounds of the same run, because a ratio travels between machines and a time does not.
//! The result is printed as a table and written, raw samples included, to `bench/runs/`.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the report is what it is for")]

mod guest;
mod starts;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use pyro_core::backend::Preference;
use pyro_core::config::Config;
use pyro_core::host;
use pyro_core::vm::Factory;
use serde::Serialize;
use serde_json::{Value, json};

/// What went wrong, in words.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// One promised number.
#[derive(Serialize)]
pub struct Row {
    /// What is measured.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Every sample, in the order in which it was taken.
    pub samples: Vec<f64>,
    /// What it is compared with, sample by sample in the same run; empty for an absolute number.
    pub reference: Vec<f64>,
    /// The promise, in words.
    pub promise: String,
    /// Whether it is kept.
    pub kept: bool,
}

/// The median; not a number without samples.
pub fn median(samples: &[f64]) -> f64 {
    percentile(samples, 0.5)
}

/// The nearest-rank percentile.
pub fn percentile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// Where everything is in a clone.
pub struct Places {
    /// The clone.
    pub root: PathBuf,
    /// The `pyro` that is measured.
    pub pyro: PathBuf,
    /// What makes VMs in this process.
    pub factory: Factory,
}

/// Measures what the words ask for: `--quick` for a look, `starts` or `guest` for one group.
pub fn from_words(places: &crate::places::Places, words: &[&str]) -> Result<(), Failure> {
    let quick = words.contains(&"--quick");
    let only = words.iter().find(|word| **word != "--quick").copied();
    let cache = crate::places::user_cache().ok_or("there is no place for a cache: set HOME")?;
    let environment_dir = crate::places::environments().unwrap_or_else(|| cache.join("environments"));
    let config = Config {
        bundle_dir: places.runtime(),
        template_dir: environment_dir.join(".templates"),
        environment_dir,
        cache_dir: cache.join("host"),
        scratch_dir: cache,
        qemu_binary: crate::places::qemu().ok_or("there is no qemu-system-x86_64 on this machine")?,
        boot_deadline: None,
    };
    run(&places.root, config, quick, only)
}

/// Measures and reports; `quick` takes few samples, to see that it works. `only` keeps the rows whose group has this
/// name: `starts` or `guest`.
fn run(root: &Path, config: Config, quick: bool, only: Option<&str>) -> Result<(), Failure> {
    let pyro = root.join("target/release/pyro");
    if !pyro.is_file() {
        return Err("target/release/pyro is missing: `cargo build --release -p pyro-cli` makes it".into());
    }
    let factory = Factory::new(config, Preference::Auto);
    let places = Places { root: root.to_owned(), pyro, factory };
    let wanted = |group: &str| only.is_none_or(|only| only == group);
    let mut rows = Vec::new();
    if wanted("starts") {
        rows.extend(starts::measure(&places, quick)?);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if wanted("guest") {
        rows.extend(runtime.block_on(guest::measure(&places, quick))?);
    }
    print(&rows);
    if !quick {
        let path = write(&places, &rows)?;
        println!("\nraw samples: {}", path.display());
    }
    Ok(())
}

fn print(rows: &[Row]) {
    println!(
        "{:44} {:>4} {:>10} {:>10} {:>10} {:>6}  promise",
        "", "n", "median", "p95", "reference", "ratio"
    );
    for row in rows {
        let middle = median(&row.samples);
        let (reference, ratio) = if row.reference.is_empty() {
            (String::new(), String::new())
        } else {
            let reference = median(&row.reference);
            (format!("{reference:.1}"), format!("{:.2}", middle / reference))
        };
        println!(
            "{:44} {:>4} {:>10} {:>10} {reference:>10} {ratio:>6}  {} {}",
            row.name,
            row.samples.len(),
            format!("{middle:.1} {}", row.unit),
            format!("{:.1}", percentile(&row.samples, 0.95)),
            row.promise,
            if row.kept { "(kept)" } else { "(NOT KEPT)" },
        );
    }
}

/// What was measured on, so that figures of two runs are not compared by mistake.
fn fingerprint(places: &Places) -> Result<Value, Failure> {
    let version = |program: &Path| -> Result<String, Failure> {
        let out = Command::new(program).arg("--version").output()?;
        Ok(String::from_utf8_lossy(&out.stdout).lines().next().unwrap_or_default().to_owned())
    };
    let bundle = places.factory.bundle()?;
    Ok(json!({
        "host_kernel": host::kernel_release(),
        "cpu": host::cpu_model(),
        "cpus": std::thread::available_parallelism()?.get(),
        "memory_available_mib": host::available_memory_mib(),
        "qemu": version(&places.factory.config.qemu_binary)?,
        "pyro": version(&places.pyro)?,
        "runtime": bundle.digest(),
        "component_versions": bundle.manifest().component_versions,
    }))
}

fn write(places: &Places, rows: &[Row]) -> Result<PathBuf, Failure> {
    let when = Command::new("date").args(["-u", "+%Y-%m-%dT%H%M%SZ"]).output()?;
    let when = String::from_utf8(when.stdout)?.trim().to_owned();
    let path = places.root.join("bench/runs").join(format!("{when}.json"));
    let object = json!({"when": when, "fingerprint": fingerprint(places)?, "rows": rows});
    std::fs::write(&path, format!("{}\n", serde_json::to_string(&object)?))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let samples: Vec<f64> = (1..=20).rev().map(f64::from).collect();
        assert_eq!((median(&samples), percentile(&samples, 0.95)), (10.0, 19.0));
        assert!(median(&[]).is_nan());
    }
}
