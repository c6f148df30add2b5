//! Whole starts: `pyro run` as a process against the floor's cold boot, and boots on a busy host.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::Value;

use super::{Failure, Places, Row, median};

/// A cold `pyro run` may take so many times the floor's cold boot.
const COLD_RATIO: f64 = 2.5;

/// Measures both.
pub fn measure(places: &Places, quick: bool) -> Result<Vec<Row>, Failure> {
    let (rounds, each) = if quick { (1, 2) } else { (5, 5) };
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    run_true(places)?;
    for round in 0..rounds {
        eprintln!("[bench] cold starts, round {} of {rounds}", round + 1);
        floor.extend(floor_cold(places, each)?);
        for _ in 0..each {
            ours.push(run_true(places)?);
        }
    }
    let ratio = median(&ours) / median(&floor);
    let cold = Row {
        name: "cold: pyro run debian:12 -- true",
        unit: "ms",
        samples: ours,
        reference: floor,
        promise: format!("at most {COLD_RATIO} x the floor's cold boot"),
        kept: ratio <= COLD_RATIO,
    };
    Ok(vec![cold, busy(places, if quick { 3 } else { 50 })?])
}

/// One run, milliseconds from exec to exit.
fn run_true(places: &Places) -> Result<f64, Failure> {
    let begin = Instant::now();
    let status = Command::new(&places.pyro)
        .args(["run", "debian:12", "--", "true"])
        .env("PYRO_RUNTIME_BUNDLE_DIR", &places.factory.config.bundle_dir)
        .env("PYRO_ENVIRONMENT_CACHE_DIR", &places.factory.config.environment_dir)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    let took = begin.elapsed().as_secs_f64() * 1e3;
    if status.success() { Ok(took) } else { Err(format!("pyro run failed: {status}").into()) }
}

fn floor_cold(places: &Places, runs: usize) -> Result<Vec<f64>, Failure> {
    let kernel = places.factory.bundle()?.artifact_path("kernel").ok_or("the bundle has no kernel")?;
    let out = Command::new("python3")
        .arg(places.root.join("bench/qemu_floor.py"))
        .arg(kernel)
        .args(["--runs", &runs.to_string()])
        .stderr(Stdio::inherit())
        .output()?;
    let object: Value = serde_json::from_slice(&out.stdout)?;
    let colds = object["colds"].as_array().ok_or("the floor reports no cold boots")?;
    Ok(colds.iter().filter_map(Value::as_f64).map(|seconds| seconds * 1e3).collect())
}

/// Cold boots while every core is kept busy by other work: all must succeed.
fn busy(places: &Places, boots: usize) -> Result<Row, Failure> {
    eprintln!("[bench] {boots} cold boots with every core busy");
    let cores = std::thread::available_parallelism()?.get();
    let stop = AtomicBool::new(false);
    let results: Vec<Option<f64>> = std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let results = (0..boots).map(|_| run_true(places).ok()).collect();
        stop.store(true, Ordering::Relaxed);
        results
    });
    let samples: Vec<f64> = results.into_iter().flatten().collect();
    Ok(Row {
        name: "cold, every core busy: pyro run -- true",
        unit: "ms",
        promise: format!("{boots} of {boots} succeed; {} did", samples.len()),
        kept: samples.len() == boots,
        samples,
        reference: Vec::new(),
    })
}
